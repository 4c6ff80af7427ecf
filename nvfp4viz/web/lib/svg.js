// Text, numbers and SVG as strings. The explorer's files follow one another in one module: `document.explorer_module`.

const SIDES = ["a", "b"];

// Text and numbers
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const UNSEEN = /[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]/g; // controls, and what turns the direction of text
const esc = (text) => {
  const visible = String(text).replace(UNSEEN, "\ufffd");
  return visible.replace(/[&<>"']/g, (c) => ESCAPES[c]);
};
const num = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : v === "nan" ? NaN : v); // as JSON tells it
const minus = (text) => text.replace("-", "−");
const INTEGER = new Intl.NumberFormat("en-US"); // kept: toLocaleString makes one each time
const int = (v) => INTEGER.format(v);
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
const words = (name) => name.replaceAll("_", " ");
const hex = (byte) => "0x" + byte.toString(16).toUpperCase().padStart(2, "0");

function fixed(v, n = 2) {
  v = num(v);
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "–";
  return minus(v.toFixed(n).replace(/^-(0\.?0*)$/, "$1")); // no -0.00
}
const signed = (v, n = 2) => (v > 0 ? "+" : "") + fixed(v, n);

function percent(v) {
  if (v === 0) return "0 %";
  if (v < 0.00095) return `${(100 * v).toPrecision(1)} %`;
  return `${(100 * v).toFixed(v < 0.0995 ? 2 : 1)} %`;
}

const tenTo = (power) => "10" + [...String(power)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");

function short(v, digits = 4) {
  v = num(v);
  if (!Number.isFinite(v)) return fixed(v);
  if (v === 0) return "0";
  const [mantissa, power] = v.toExponential(digits - 1).split("e").map(Number); // prettier-ignore
  if (power >= -3 && power <= 5) return minus(String(Number(v.toPrecision(digits))));
  return `${minus(String(mantissa))}×${tenTo(power)}`;
}

// Round numbers between low and high
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
}

// What in a list is least far; the first of equals
const nearest = (list, far) => list.reduce((best, v) => (far(v) < far(best) ? v : best), list[0]);

// [first, counts...] back to index -> count
const counts = (trimmed) => new Map(trimmed.slice(1).map((n, i) => [trimmed[0] + i, n]));

// SVG
const attributes = (at) =>
  Object.entries(at)
    .map(([k, v]) => ` ${k}="${esc(typeof v === "number" && !k.startsWith("data-") ? +v.toFixed(2) : v)}"`)
    .join("");
const tag = (name, at, inner = "") => `<${name}${attributes(at)}>${inner}</${name}>`;
const line = (x1, y1, x2, y2, cls, at = {}) => tag("line", { x1, y1, x2, y2, class: cls, ...at });
const text = (x, y, string, cls = "", at = {}) => tag("text", { x, y, class: cls, ...at }, esc(string));
const rect = (x, y, width, height, cls, at = {}) =>
  tag("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), class: cls, ...at });

// Columns at the right edge for the numbers of A and B: where each ends, and their heads
const sideColumn = (W, i) => W - 62 + 60 * i;
const sideHeads = (W, y) =>
  SIDES.map((side, i) => text(sideColumn(W, i), y, side.toUpperCase(), `end strong ${side}-ink`)).join("");

// A is a disc, B a diamond.
function dot(x, y, side, r) {
  if (side === "a") return tag("circle", { cx: x, cy: y, r: r * 1.2, class: "dot a" });
  const transform = `rotate(45 ${x.toFixed(2)} ${y.toFixed(2)})`;
  return rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7, "dot b", { transform });
}

// What a box beside the pointer says, and the layer that it is drawn into
const tip = (x, y, width, height, inner) =>
  tag("g", { class: "tip" }, rect(x, y, width, height, "", { rx: 3 }) + inner);
const CURSOR = '<g class="cursor"></g>';
