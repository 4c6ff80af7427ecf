// What the parts of one explorer share: its element, its traits, and when it draws.

import { writeText } from "./patch.js";
import { skeleton } from "./skeleton.js";

const PATIENCE_MS = 120; // an answer that comes sooner is drawn at once: a picture of waiting would only delay it
const REST_MS = 400;

let instances = 0;

export class Page {
  notice = ""; // what stands under the dials
  nowhere = ""; // why what was typed names no block
  queued = false; // whether a drawing is due
  since = null; // when it began to wait for statistics
  filled = {}; // selector -> what `fill` wrote there
  parts = {}; // selector -> the element of the skeleton
  rests = {}; // what -> the timer that does it

  constructor(model, el, draw) {
    this.model = model;
    this.draw = draw;
    this.root = document.createElement("div");
    this.root.className = "nv4";
    const uid = `nv4-${++instances}-${Math.random().toString(36).slice(2, 8)}`;
    this.root.innerHTML = skeleton(uid, model.get("catalog"));
    // or JupyterLab takes the arrows
    for (const part of this.all("select, input, button, svg")) part.dataset.lmSuppressShortcuts = "true";
    el.append(this.root);
  }

  get(name) {
    return this.model.get(name);
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  // What was said of what was asked before
  forget() {
    this.notice = this.nowhere = "";
  }

  // An element of the skeleton: looked for once, it stays.
  one(selector) {
    return (this.parts[selector] ??= this.root.querySelector(selector));
  }

  all(selector) {
    return [...this.root.querySelectorAll(selector)];
  }

  // The same text again would be laid out again, too.
  write(selector, content) {
    const place = this.one(selector);
    if (place.textContent !== content) writeText(place, content);
  }

  // Data attributes, where they are not so yet: a browser looks for styles that depend on one even when it stays.
  mark(element, values) {
    for (const [name, value] of Object.entries(values))
      if (element.dataset[name] !== String(value)) element.dataset[name] = value;
  }

  // The same for HTML
  fill(selector, html) {
    if (this.filled[selector] !== html) this.one(selector).innerHTML = this.filled[selector] = html;
  }

  // Draw once, after all that changes now.
  later = () => {
    if (this.queued) return;
    this.queued = true;
    queueMicrotask(() => {
      this.queued = false;
      this.draw();
    });
  };

  // Whether an answer may still come in time, so that waiting need not be shown. If it does not, draw again.
  patient() {
    if (this.since === null) {
      this.since = performance.now();
      setTimeout(() => this.since === null || this.later(), PATIENCE_MS);
    }
    return performance.now() - this.since < PATIENCE_MS - 1;
  }

  // What was waited for is here.
  arrived() {
    this.since = null;
  }

  // Act once the dials rest.
  debounce(what, act) {
    clearTimeout(this.rests[what]);
    this.rests[what] = setTimeout(act, REST_MS);
  }

  stop() {
    for (const timer of Object.values(this.rests)) clearTimeout(timer);
  }
}
