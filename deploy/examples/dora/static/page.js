// Shows times in the zone of the reader, and asks every few seconds whether the page has changed.
// Then only the elements that differ are changed, so focus and open details stay.
"use strict";

const INTERVAL_MS = 4000;
const USER_ATTRIBUTES = new Set(["open"]); // the person sets these, so an update keeps them

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const isThisYear = at.getFullYear() === new Date().getFullYear();
    time.textContent = at.toLocaleString(undefined, {
      month: "short",
      day: "numeric",
      hour: "2-digit",
      minute: "2-digit",
      ...("seconds" in time.dataset ? { second: "2-digit" } : {}),
      ...(isThisYear ? {} : { year: "numeric" }),
    });
  }
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
  if (current.id === "live-state") return; // this script writes it
  if (current.nodeType === Node.ELEMENT_NODE) {
    updateAttributes(current, wanted);
    updateChildren(current, wanted);
  } else if (current.data !== wanted.data) {
    current.data = wanted.data;
  }
}

function isSame(current, wanted) {
  return current.nodeName === wanted.nodeName && current.dataset?.key === wanted.dataset?.key;
}

// A child with a key is found again wherever it is; it keeps its focus if it need not be moved.
function updateChildren(current, wanted) {
  const keyed = new Map([...current.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  const wantedKeys = new Set([...wanted.children].map((child) => child.dataset.key));
  for (const [key, child] of keyed) if (!wantedKeys.has(key)) child.remove();
  let position = current.firstChild;
  for (const node of [...wanted.childNodes]) {
    const found = keyed.get(node.dataset?.key) ?? (position && isSame(position, node) ? position : null);
    if (!found) {
      current.insertBefore(node, position);
      continue;
    }
    if (found === position) position = position.nextSibling;
    else current.insertBefore(found, position);
    updateNode(found, node);
  }
  while (position) {
    const next = position.nextSibling;
    position.remove();
    position = next;
  }
}

const liveState = document.getElementById("live-state");
let shownTag = null;

function showState(state, text) {
  if (liveState.textContent !== text) liveState.textContent = text;
  liveState.dataset.state = state;
}

async function refresh() {
  try {
    const response = await fetch(location.href, { cache: "no-cache" });
    if (!response.ok) throw new Error(response.statusText);
    const tag = response.headers.get("ETag");
    if (tag !== shownTag) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      showLocalTimes(page);
      document.title = page.title;
      updateNode(document.querySelector("main"), page.querySelector("main"));
      shownTag = tag;
    }
    showState("live", "live");
  } catch {
    showState("away", "the server does not answer: these are the last numbers");
  }
}

async function run() {
  showLocalTimes(document);
  if (!liveState) return;
  await refresh();
  setInterval(() => document.hidden || refresh(), INTERVAL_MS);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

run();
