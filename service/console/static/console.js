// How is the page kept alive? Parts of it come as events, and only what differs is changed.
"use strict";

const KEY = "data-key";
const OWN = new Set(["open"]); // what the person did to an element is the person's

function isSame(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  return a.nodeType !== Node.ELEMENT_NODE || a.getAttribute(KEY) === b.getAttribute(KEY);
}

function hasKey(node) {
  return node.nodeType === Node.ELEMENT_NODE && node.hasAttribute(KEY);
}

function takeOut(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function changeAttributes(old, now) {
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && !OWN.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function change(old, now) {
  if (old.nodeType === Node.ELEMENT_NODE) {
    changeAttributes(old, now);
    changeChildren(old, now);
  } else if (old.data !== now.data) {
    old.data = now.data;
  }
}

// An element with a key stays itself, whatever comes or goes around it: so do focus and open details.
// What is gone is taken out first, for an element that has to be moved loses its focus.
function changeChildren(old, now) {
  const wantedKeys = new Set([...now.children].map((child) => child.getAttribute(KEY)));
  const keyed = new Map();
  for (const child of [...old.children]) {
    const key = child.getAttribute(KEY);
    if (key === null) continue;
    if (wantedKeys.has(key)) keyed.set(key, child);
    else child.remove();
  }
  let place = old.firstChild;
  for (const wanted of [...now.childNodes]) {
    const key = wanted.nodeType === Node.ELEMENT_NODE ? wanted.getAttribute(KEY) : null;
    const known = key === null ? place : keyed.get(key);
    if (known && isSame(known, wanted)) {
      while (place !== known && place && !hasKey(place)) place = takeOut(place);
      if (place === known) place = place.nextSibling;
      else old.insertBefore(known, place);
      change(known, wanted);
    } else {
      old.insertBefore(wanted, place);
    }
  }
  while (place) place = takeOut(place);
}

function show(parts) {
  for (const [name, html] of Object.entries(parts)) {
    const part = document.querySelector(`[data-part="${name}"]`);
    if (!part) continue;
    const made = document.createElement("template");
    made.innerHTML = html;
    changeChildren(part, made.content);
  }
}

function watch(address, state) {
  let source = null;
  let again = 0;
  function tell(word) {
    state.textContent = word;
    state.dataset.state = word;
  }
  function open() {
    clearTimeout(again);
    if (source || document.hidden) return;
    source = new EventSource(address);
    source.onopen = () => tell("live");
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.onerror = () => {
      tell("waiting for the receiver");
      if (source.readyState !== EventSource.CLOSED) return;
      close(); // it was refused: too many watch, or the pass has ended
      again = setTimeout(comeAgain, 5000);
    };
  }
  async function comeAgain() {
    const page = await fetch(location.href).catch(() => null);
    if (page?.status === 401) location.reload(); // numbers that stand still would look alive
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
  const seek = document.getElementById("seek");
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && seek && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    seek.select();
    seek.focus();
  }
  if (event.key === "Escape") {
    for (const details of document.querySelectorAll("details.sure[open]")) {
      details.open = false;
      details.querySelector("summary").focus();
    }
  }
});

const live = document.querySelector("[data-live]");
if (live) watch(live.dataset.live, document.getElementById("state"));
