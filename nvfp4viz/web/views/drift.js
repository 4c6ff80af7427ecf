// Where the error goes: SQNR along the depth, and by layer and token.

import { axes, boxed } from "./output.js";
import { CURSOR, line, rect, tag, text } from "../lib/svg.js";
import { clamp, endOf, fixed, int, minus, ticks } from "../lib/text.js";

const SERIES = [
  ["floor", "floor: bf16 against fp32"],
  ["local", "this layer alone"],
  ["cumulative", "all before it, too"],
];
const SHADES = 12; // of the map
const MAP_TOP = 4;
const MAP_FOOT = 40;

export function drawDepth(W, drift, H = 260) {
  const { layers, leaves } = drift;
  const series = SERIES.map(([name, words]) => ({ name, words, db: drift[name] || [] })).filter(({ db }) => db.length);
  const seen = series.flatMap(({ db }) => db).filter(Number.isFinite);
  const [low, high] = seen.length ? [Math.min(...seen) - 1, Math.max(...seen) + 1] : [0, 1];
  const [left, right, top, bottom] = [44, W - 14, 22, H - 34];
  const X = (i) => left + ((i + 0.5) / layers.length) * (right - left);
  const Y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const at = layers.indexOf(leaves);
  const plot = { W, X, top, bottom, layers, series };
  const xs = ticks(0, layers.length, W < 500 ? 4 : 10).filter((v) => Number.isInteger(v) && v < layers.length);
  return {
    H,
    out:
      axes({ X, Y, left, right, top, bottom, xs, ys: ticks(low, high, 4) }) +
      text(0, 12, "SQNR, dB", "soft") +
      text(right, H - 4, "layers in the order of their calls", "soft end") +
      (at < 0 ? "" : line(X(at), top, X(at), bottom, "limit") + leaving(W, X(at), top, leaves)) +
      series.map((one) => (one.name === "local" ? dots(one, X, Y) : curve(one, X, Y))).join("") +
      CURSOR,
    label: `SQNR of what ${layers.length} layers return, ${drift.recipe}` + (leaves ? `; it leaves the bf16 floor at ${leaves}` : ""),
    stops: layers.map((_, i) => i),
    point: (i) => depthTip(plot, i),
    at: (x) => clamp(Math.round(((x - left) / (right - left)) * layers.length - 0.5), 0, layers.length - 1),
  };
}

function leaving(W, x, top, name) {
  const shown = `leaves the floor: ${name}`.slice(-Math.floor((W - 60) / 6.4));
  const right = x > W / 2;
  return text(right ? x - 5 : x + 5, top + 6, shown, right ? "soft end" : "soft");
}

// Broken where a layer has no number
function curve({ name, db }, X, Y) {
  let pen = "M";
  let d = "";
  db.forEach((v, i) => {
    if (Number.isFinite(v)) d += `${pen}${X(i).toFixed(1)} ${Y(v).toFixed(1)}`;
    pen = Number.isFinite(v) ? "L" : "M";
  });
  return tag("path", { d, class: `curve ${name}` });
}

const dots = ({ name, db }, X, Y) =>
  db.map((v, i) => (Number.isFinite(v) ? tag("circle", { cx: X(i), cy: Y(v), r: 2.4, class: `mark ${name}` }) : "")).join("");

function depthTip({ W, X, top, bottom, layers, series }, i) {
  const numbers = series.map(({ words, db }) => `${words} ${Number.isFinite(db[i]) ? fixed(db[i], 1) : "–"}`);
  const parts = [layers[i], ...numbers.reverse()];
  const hair = line(X(i), top, X(i), bottom, "hair");
  return { label: parts.join(", "), svg: hair + boxed(W, X(i) - 80, top + 8, parts) };
}

// SQNR by layer, downwards, and token; the stronger, the larger the error. Its cells are a path for each shade.
export function drawDriftMap(W, { map, layers, step, tokens, low, high, recipe }) {
  const columns = map[0].length;
  const tall = clamp(Math.floor(330 / layers.length), 3, 14);
  const longest = Math.max(...layers.map((n) => n.length));
  const left = tall < 9 ? 34 : clamp(longest * 6.2 + 8, 34, W * 0.36);
  const wide = (W - left - 8) / columns;
  const bottom = MAP_TOP + layers.length * tall;
  const shade = (v) => clamp(Math.round(((high - v) / (high - low || 1)) * (SHADES - 1)), 0, SHADES - 1);
  const paths = Array.from({ length: SHADES }, () => "");
  map.forEach((row, r) =>
    row.forEach((v, k) => {
      if (v === null) return;
      paths[shade(v)] += `M${(left + k * wide).toFixed(1)} ${MAP_TOP + r * tall}h${wide.toFixed(2)}v${tall}h-${wide.toFixed(2)}z`;
    }),
  );
  const fills = paths.map((d, s) => (d ? tag("path", { d, class: "drifted", style: `fill:${ink(s)}`, "data-shade": s }) : ""));
  const plot = { W, left, wide, tall, map, layers, step, tokens };
  return {
    key: [W, recipe, tokens, layers.length].join(),
    H: bottom + MAP_FOOT,
    out: fills.join("") + names(plot) + legend(plot, bottom, low, high) + CURSOR,
    label: `SQNR by layer and token, ${layers.length} layers, ${int(tokens)} tokens, ${recipe}`,
    stops: map.flatMap((row, r) => row.map((_, k) => r * columns + k)),
    point: (i) => mapTip(plot, Math.floor(i / columns), i % columns),
    at: (x, y) => {
      const r = clamp(Math.floor((y - MAP_TOP) / tall), 0, layers.length - 1);
      return r * columns + clamp(Math.floor((x - left) / wide), 0, columns - 1);
    },
  };
}

const ink = (s) => `color-mix(in oklab, var(--ink) ${Math.round(4 + (86 * s) / (SHADES - 1))}%, var(--paper))`;

// Of each layer its name, or of some their number where rows are low
function names({ left, tall, layers }) {
  if (tall >= 9)
    return layers
      .map((n, r) => text(left - 5, MAP_TOP + (r + 1) * tall - 2, endOf(n, left - 7), "soft end"))
      .join("");
  return ticks(0, layers.length - 1, 6)
    .filter(Number.isInteger)
    .map((r) => text(left - 5, MAP_TOP + r * tall + 8, r, "soft end"))
    .join("");
}

function legend({ left, wide, map, step, tokens }, bottom, low, high) {
  const marks = ticks(0, tokens, 5).filter((v) => Number.isInteger(v) && v < tokens);
  const numbers = marks.map((v) => text(left + (v / step) * wide, bottom + 13, v, "soft mid"));
  const swatches = Array.from({ length: SHADES }, (_, s) => rect(left + 52 + s * 9, bottom + 22, 9, 10, "", { style: `fill:${ink(s)}` }));
  const each = step > 1 ? `; a column is ${step} tokens` : "";
  const words = `${minus(low.toFixed(1))} dB, by token${each}`;
  const shown = left + 170 + words.length * 6.2 < left + map[0].length * wide ? words : words.split(",")[0];
  return (
    numbers.join("") +
    text(left + 46, bottom + 31, fixed(high, 1), "soft end") +
    swatches.join("") +
    text(left + 58 + SHADES * 9, bottom + 31, shown, "soft")
  );
}

function mapTip({ W, left, wide, tall, map, layers, step, tokens }, r, k) {
  const last = Math.min((k + 1) * step, tokens) - 1;
  const where = step > 1 ? `tokens ${k * step} to ${last}` : `token ${k}`;
  const db = map[r][k] === null ? "nothing came out" : `${fixed(map[r][k], 1)} dB`;
  const parts = [layers[r], where, db];
  const frame = rect(left + k * wide, MAP_TOP + r * tall, Math.max(wide, 2), tall, "framed");
  return { label: parts.join(", "), svg: frame + boxed(W, left + k * wide - 60, MAP_TOP + (r + 1) * tall + 3, parts) };
}
