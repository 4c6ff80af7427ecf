// The figures: what is drawn into them, and pointing at it by pointer or by key.
//
// A picture is {out, H, label, at}: SVG, its height, words for those who do not see it, and what is at a place. Those
// with `stops` and point(stop) are read with a cursor. One with a `key` is not drawn again while that stays the same.

import { patch } from "./patch.js";
import { clamp } from "../lib/text.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export class Pictures {
  drawn = {}; // by the svg's name
  parts = {}; // name -> the elements in it
  cursors = {}; // name -> the stop that its cursor is at

  // `choices`: name -> {position(), size(), choose(i)} where a click or an arrow key chooses; elsewhere keys point. Where
  // tensor(i) and place(tensor) say which tensor is at i, pictures and the page around tell each other what is pointed at.
  constructor(page, choices) {
    this.page = page;
    this.choices = choices;
    for (const svg of page.all("svg")) this.listen(svg, svg.classList[0]);
  }

  svg(name) {
    return this.page.one(`svg.${name}`);
  }

  put(name, picture, W) {
    const { H } = picture;
    const svg = this.svg(name);
    setChanged(svg, { "aria-label": picture.label });
    // beside the svg, not in it: moving it would lay out every dot of hundreds of tensors anew
    for (const [k, v] of Object.entries(picture.frame || {})) svg.previousElementSibling.style[k] = `${v}px`;
    if (picture.key && picture.key === this.drawn[name]?.key) return;
    setChanged(svg, { viewBox: `0 0 ${W} ${H}`, width: W, height: H });
    this.parts[name] = patch(svg, picture.out, this.parts[name] || []);
    this.drawn[name] = picture;
    if (this.cursors[name] !== undefined) this.point(name, this.cursors[name], false);
  }

  // Put the cursor at a stop, or take it away.
  point(name, stop, aloud) {
    const picture = this.drawn[name];
    const svg = this.svg(name);
    const cursor = svg.querySelector(".cursor");
    if (!picture?.point || !cursor) return;
    this.cursors[name] = stop;
    const pointed = stop === undefined ? null : picture.point(stop);
    cursor.innerHTML = pointed ? pointed.svg : "";
    for (const row of svg.querySelectorAll("[data-row]"))
      row.classList.toggle("on", pointed?.row !== undefined && row.dataset.row === String(pointed.row));
    if (aloud && pointed) this.page.write(".announced", pointed.label);
  }

  // Put the cursors of all pictures of tensors at one, or take them away where it is null.
  pointAt(tensor) {
    for (const [name, { place }] of Object.entries(this.choices)) {
      const stop = place && this.drawn[name] && tensor !== null ? place(tensor) : -1;
      if (place) this.point(name, stop < 0 ? undefined : stop, false);
    }
  }

  listen(svg, name) {
    const away = () => this.point(name, undefined, false);
    svg.addEventListener("pointermove", (event) => {
      const picture = this.drawn[name];
      if (!picture?.point) return;
      const stop = picture.at(...placeIn(svg, event));
      this.point(name, stop, false);
      this.tell(this.choices[name]?.tensor?.(stop));
    });
    svg.addEventListener("pointerleave", () => {
      away();
      if (this.choices[name]?.tensor) this.tell(null);
    });
    svg.addEventListener("blur", away);
    svg.addEventListener("click", (event) => {
      const picture = this.drawn[name];
      if (picture) this.choices[name]?.choose(picture.at(...placeIn(svg, event)));
    });
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") away();
      if (this.drawn[name] && moved(event.key, 0, 1) !== null) {
        event.preventDefault();
        this.move(name, event.key);
      }
    });
  }

  tell(tensor) {
    if (tensor === undefined) return;
    this.page.root.dispatchEvent(new CustomEvent("nv4-pointed", { bubbles: true, detail: tensor }));
  }

  // To the next choice, or to the next stop, which is said aloud.
  move(name, key) {
    const choice = this.choices[name];
    if (choice) {
      choice.choose(moved(key, choice.position(), choice.size()));
      return;
    }
    const { stops } = this.drawn[name];
    if (stops.length) this.point(name, stops[moved(key, stops.indexOf(this.cursors[name]), stops.length)], true);
  }
}

// Attributes that are not yet so: setting one lays out anew, even to what it was.
function setChanged(element, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Where a key leads from i among n, null where it leads nowhere.
function moved(key, i, n) {
  if (key === "Home") return 0;
  if (key === "End") return n - 1;
  return key in STEPS ? clamp(i + STEPS[key], 0, n - 1) : null;
}

// In the svg's own units
function placeIn(svg, { clientX, clientY }) {
  const box = svg.getBoundingClientRect();
  const { width, height } = svg.viewBox.baseVal;
  return [((clientX - box.left) * width) / box.width, ((clientY - box.top) * height) / box.height];
}
