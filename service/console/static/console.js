// Live updates of the overview: what changed arrives as server-sent events, either whole parts as
// HTML or rows of a list, and only the elements that differ are changed.
"use strict";

const USER_ATTRIBUTES = new Set(["open"]); // the person sets these, so an update keeps them
const AGE_UNITS = [["d", 86_400], ["h", 3600], ["min", 60]];

function parseHtml(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function updateAttributes(current, wanted) {
  for (const { name } of [...current.attributes]) {
    if (!wanted.hasAttribute(name) && !USER_ATTRIBUTES.has(name)) current.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (current.getAttribute(name) !== value) current.setAttribute(name, value);
  }
}

function updateNode(current, wanted) {
  if (current.nodeType === Node.ELEMENT_NODE) {
    updateAttributes(current, wanted);
    if (!current.hasAttribute("data-at")) updateChildren(current, wanted); // updateAges writes ages
  } else if (current.data !== wanted.data) {
    current.data = wanted.data;
  }
}

function updateChildren(current, wanted) {
  const wantedNodes = [...wanted.childNodes];
  for (const [index, node] of wantedNodes.entries()) {
    const currentNode = current.childNodes[index];
    if (!currentNode) current.append(node);
    else if (currentNode.nodeName === node.nodeName) updateNode(currentNode, node);
    else currentNode.replaceWith(node);
  }
  while (current.childNodes.length > wantedNodes.length) current.lastChild.remove();
}

// A row is kept, with its focus and its open details, whatever is added or removed around it. Rows
// that are gone are removed first, because moving a row loses its focus.
function updateList(list, { keys, rows }) {
  const currentRows = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const wantedKeys = new Set(keys ?? currentRows.keys());
  for (const [key, row] of currentRows) {
    if (!wantedKeys.has(key)) row.remove();
  }
  let position = list.firstElementChild;
  for (const key of wantedKeys) {
    const wanted = key in rows ? parseHtml(rows[key]).firstElementChild : null;
    const row = currentRows.get(key) ?? wanted;
    if (!row) continue;
    if (wanted && wanted !== row) updateNode(row, wanted);
    if (row === position) position = position.nextElementSibling;
    else list.insertBefore(row, position);
  }
}

function showChanges(changes) {
  for (const [name, change] of Object.entries(changes)) {
    const element = document.querySelector(`[data-fragment="${name}"]`);
    if (!element) continue;
    if (typeof change === "string") updateChildren(element, parseHtml(change));
    else updateList(element, change);
  }
  updateAges();
}

// Ages are counted here by Redis's clock, so that the receiver need not send them.
const nowMs = Number(document.querySelector("[data-now]")?.dataset.now);
const clockOffsetMs = nowMs ? nowMs - Date.now() : 0;

function formatAge(seconds) {
  if (seconds < 1) return "now";
  const [unit, unitSeconds] = AGE_UNITS.find((known) => seconds >= known[1]) ?? ["s", 1];
  return `${Math.round(seconds / unitSeconds)} ${unit}`;
}

function updateAges() {
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = formatAge((Date.now() + clockOffsetMs - Number(time.dataset.at)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function connectLive(url, stateElement) {
  let source = null;
  let reconnectTimer = 0;
  function showState(state) {
    stateElement.textContent = state;
    stateElement.dataset.state = state;
  }
  function open() {
    clearTimeout(reconnectTimer);
    if (source || document.hidden) return;
    source = new EventSource(url);
    source.onopen = () => showState("live");
    source.onmessage = (event) => showChanges(JSON.parse(event.data));
    source.onerror = () => {
      showState("reconnecting");
      if (source.readyState !== EventSource.CLOSED) return;
      close(); // refused: there are too many viewers, or the session has ended
      reconnectTimer = setTimeout(reconnect, 5000);
    };
  }
  async function reconnect() {
    const page = await fetch(location.href).catch(() => null);
    if (page?.status === 401) location.reload(); // shows the sign-in form instead of stale numbers
    else open();
  }
  function close() {
    if (source) source.close();
    source = null;
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

document.addEventListener("keydown", (event) => {
  const search = document.getElementById("search");
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && search && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.select();
    search.focus();
  }
  if (event.key === "Escape") {
    for (const details of document.querySelectorAll("details.drop[open]")) {
      details.open = false;
      details.querySelector("summary").focus();
    }
  }
});

const live = document.querySelector("[data-live-url]");
if (live) {
  connectLive(live.dataset.liveUrl, document.getElementById("live-state"));
  setInterval(() => document.hidden || updateAges(), 1000);
}
