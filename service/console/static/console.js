// Live updates of the overview: HTML fragments arrive as server-sent events, and only the elements
// that differ are changed.
"use strict";

const KEY = "data-key";
const USER_ATTRIBUTES = new Set(["open"]); // the person sets these, so an update keeps them

function isSameElement(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  return a.nodeType !== Node.ELEMENT_NODE || a.getAttribute(KEY) === b.getAttribute(KEY);
}

function hasKey(node) {
  return node.nodeType === Node.ELEMENT_NODE && node.hasAttribute(KEY);
}

function removeAndReturnNext(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
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
    updateChildren(current, wanted);
  } else if (current.data !== wanted.data) {
    current.data = wanted.data;
  }
}

// An element with a key is kept, with its focus and its open details, whatever is added or removed
// around it. Elements that are gone are removed first, because moving an element loses its focus.
function updateChildren(current, wanted) {
  const wantedKeys = new Set([...wanted.children].map((child) => child.getAttribute(KEY)));
  const currentByKey = new Map();
  for (const child of [...current.children]) {
    const key = child.getAttribute(KEY);
    if (key === null) continue;
    if (wantedKeys.has(key)) currentByKey.set(key, child);
    else child.remove();
  }
  let position = current.firstChild;
  for (const wantedChild of [...wanted.childNodes]) {
    const key = hasKey(wantedChild) ? wantedChild.getAttribute(KEY) : null;
    const currentChild = key === null ? position : currentByKey.get(key);
    if (currentChild && isSameElement(currentChild, wantedChild)) {
      while (position !== currentChild && position && !hasKey(position)) position = removeAndReturnNext(position);
      if (position === currentChild) position = position.nextSibling;
      else current.insertBefore(currentChild, position);
      updateNode(currentChild, wantedChild);
    } else {
      current.insertBefore(wantedChild, position);
    }
  }
  while (position) position = removeAndReturnNext(position);
}

function showFragments(fragments) {
  for (const [name, html] of Object.entries(fragments)) {
    const element = document.querySelector(`[data-fragment="${name}"]`);
    if (!element) continue;
    const template = document.createElement("template");
    template.innerHTML = html;
    updateChildren(element, template.content);
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
    source.onmessage = (event) => showFragments(JSON.parse(event.data));
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
if (live) connectLive(live.dataset.liveUrl, document.getElementById("live-state"));
