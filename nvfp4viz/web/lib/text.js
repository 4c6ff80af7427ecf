// Text and numbers as a reader sees them.

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const UNSEEN = /[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]/g; // controls, and what turns the direction of text
export const NAMELESS = "(no name)"; // stands for an empty name
export const visible = (text) => String(text).replace(UNSEEN, "\ufffd");
const PLAIN = /^[\w #%().,:;/+-]*$/; // most of what is drawn: looked at once and handed on
export const esc = (text) =>
  PLAIN.test(text) ? String(text) : visible(text).replace(/[&<>"']/g, (c) => ESCAPES[c]);
export const num = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : v === "nan" ? NaN : v); // as JSON tells it
export const minus = (text) => text.replace("-", "−");
export const LEAST_DB = 0.0005; // SQNRs are written in thousandths of a dB: what is less reads as no difference
const INTEGER = new Intl.NumberFormat("en-US"); // kept: toLocaleString makes one each time
export const int = (v) => INTEGER.format(v);
export const quantity = (n, noun) => `${int(n)} ${noun}${n === 1 ? "" : "s"}`;
export const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
export const hex = (byte) => "0x" + byte.toString(16).toUpperCase().padStart(2, "0");

export function fixed(v, n = 2) {
  v = num(v);
  if (!Number.isFinite(v)) return v > 0 ? "∞" : v < 0 ? "−∞" : "–";
  return minus(v.toFixed(n).replace(/^-(0\.?0*)$/, "$1")); // no -0.00
}
export function signed(v, n = 2) {
  const text = fixed(v, n);
  return num(v) > 0 && /[^0.]/.test(text) ? "+" + text : text; // no +0.00
}

export function percent(v) {
  if (v === 0) return "0 %";
  if (Number.isNaN(v)) return "–";
  if (v < 0.00095) return `${short(100 * v, 1)} %`;
  return `${(100 * v).toFixed(v < 0.0995 ? 2 : 1)} %`;
}

export const tenTo = (power) => "10" + [...String(power)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");

export function short(v, digits = 4) {
  v = num(v);
  if (!Number.isFinite(v)) return fixed(v);
  if (v === 0) return "0";
  const [mantissa, power] = v.toExponential(digits - 1).split("e").map(Number); // prettier-ignore
  if (power >= -3 && power <= 5) return minus(String(Number(v.toPrecision(digits))));
  return `${minus(String(mantissa))}×${tenTo(power)}`;
}

// About the width of a small text in px, rather more than less: Chinese, Japanese and Korean letters and pictures are wide
const WIDE = /[\u1100-\u11ff\u2e80-\ud7ff\uf900-\uffef]|[\u{10000}-\u{10ffff}]/u;
const letterWidth = (c) => (WIDE.test(c) ? 13 : /[mwMW@%…]/.test(c) ? 11 : 7);
export const widthOf = (text) => [...text].reduce((sum, c) => sum + letterWidth(c), 0);

// As many letters as have room, one after the other
function fitting(letters, room) {
  let [n, left] = [0, room];
  while (n < letters.length && left >= letterWidth(letters[n])) left -= letterWidth(letters[n++]);
  return letters.slice(0, n);
}

// The beginning of a name, or its end, which tells more; with dots where not all of it has room
export const startOf = (name, room) =>
  widthOf(name) <= room ? name : fitting([...name], room - letterWidth("…")).join("") + "…";
export function endOf(name, room) {
  if (widthOf(name) <= room) return name;
  const end = fitting([...name].reverse(), room - letterWidth("…")).reverse();
  return "…" + end.join("").replace(/^[._/]+/, "");
}

// Round numbers between low and high
export function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
  const marks = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) marks.push(+v.toPrecision(12));
  return marks;
}

// What in a list is least far; the first of equals
export const nearest = (list, far) => list.reduce((best, v) => (far(v) < far(best) ? v : best), list[0]);

// [first, counts...] back to index -> count
export const counts = (trimmed) => new Map(trimmed.slice(1).map((n, i) => [trimmed[0] + i, n]));
