// SVG as strings.

import { SIDES } from "./sides.js";
import { esc, widthOf } from "./text.js";

export const hundredth = (v) => Math.round(v * 100) / 100; // of a pixel

// Numbers to a hundredth, but for those that are data
function attributes(at) {
  let out = "";
  for (const k in at) {
    const v = at[k];
    const written = typeof v !== "number" ? esc(v) : k.startsWith("data-") ? v : hundredth(v);
    out += ` ${k}="${written}"`;
  }
  return out;
}
export const tag = (name, at, inner = "") => `<${name}${attributes(at)}>${inner}</${name}>`;
export const line = (x1, y1, x2, y2, cls, at = {}) => tag("line", { x1, y1, x2, y2, class: cls, ...at });
export const text = (x, y, string, cls = "", at = {}) => tag("text", { x, y, class: cls, ...at }, esc(string));
export const rect = (x, y, width, height, cls, at = {}) =>
  tag("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), class: cls, ...at });

// Of labels [x, string], the weightiest first, those that do not touch one before them
export function apart(labels) {
  const chosen = [];
  for (const [x, string] of labels)
    if (chosen.every(([other, its]) => Math.abs(x - other) > (widthOf(string) + widthOf(its)) / 2 + 4)) chosen.push([x, string]);
  return chosen;
}

// Columns at the right edge for the numbers of A and B: where each ends, and their heads
export const sideColumn = (W, i) => W - 62 + 60 * i;
export const sideHeads = (W, y) =>
  SIDES.map((side, i) => text(sideColumn(W, i), y, side.toUpperCase(), `end strong ${side}-ink`)).join("");

// What stands at a place: moved by its transform, its text is not laid out anew.
export const placed = (x, y, inner) => tag("g", { transform: `translate(${hundredth(x)} ${hundredth(y)})` }, inner);

// A is a disc, B a diamond.
export function dot(x, y, side, r) {
  if (side === "a") return tag("circle", { cx: x, cy: y, r: r * 1.2, class: "dot a" });
  const transform = `rotate(45 ${x.toFixed(2)} ${y.toFixed(2)})`;
  return rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7, "dot b", { transform });
}

// What a box beside the pointer says, and the layer that it is drawn into
export const tip = (x, y, width, height, inner) =>
  tag("g", { class: "tip" }, rect(x, y, width, height, "", { rx: 3 }) + inner);
export const CURSOR = '<g class="cursor"></g>';
