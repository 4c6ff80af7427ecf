// All tensors, one column each: a lane for each number. Clicking goes there.

import { rateOf } from "../lib/catalog.js";
import { SIDES } from "../lib/sides.js";
import { CURSOR, dot, line, rect, tag, text, tip } from "../lib/svg.js";
import { clamp, endOf, fixed, num, quantity, signed, startOf, widthOf } from "../lib/text.js";

// The numbers of a summary, and what B gains over A behind the first
export const lanesOf = ({ summary_columns: [first, ...rates] }) => [first, "gain", ...rates];

// What a lane is called, and what its number is multiplied by
const DB_LANES = { sqnr_db: "SQNR, dB", gain: "B − A, dB" };
const laneHeading = (catalog, lane) => DB_LANES[lane] || `${rateOf(catalog, lane).heading}, %`;
const laneUnit = (lane) => (lane in DB_LANES ? 1 : 100);
const LANE_GAP = 18;
const LEAST_SPAN = 0.01; // in a lane's unit, dB or %: what is less is drawn as little as it is
const LANES_LEFT = 128; // room for headings and numbers
const LANES_RIGHT = 12;
const ORDER_TEXT = {
  error: "ordered by A's SQNR, the worst first",
  gain: "ordered by B − A, B's greatest loss first",
  effect: "ordered by A's predicted KL of the output, the largest first",
};

// `previous` is what this gave before: it is kept when no more than another tensor was chosen.
export function drawTensors(c, W, lanes, height, previous) {
  const plot = tensorPlot(c, W, lanes, height);
  const { names, X, step, H } = plot;
  const wide = Math.max(step, 5);
  const frame = { left: X(names.indexOf(c.tensor)) - wide / 2, width: wide, height: H - 18 };
  const key = [W, lanes, c.sort, c.filter, names.length, ...c.sides.map((s) => s.name), c.version].join();
  const label = `${c.filter ? "" : "All "}${quantity(names.length, "tensor")}: SQNR under A and B; shown is ${c.tensor}. Arrow keys go to the next.`;
  if (key === previous?.key) return { ...previous, frame, label };
  const drawn = lanes.map((lane, k) => tensorLane(plot, lane, k * (height + LANE_GAP) + 6));
  return {
    key,
    frame,
    out: drawn.join("") + (c.sort === "layer" ? layerLabels(plot) : orderLabel(plot)) + CURSOR,
    H,
    label,
    stops: names.map((_, i) => i),
    point: (i) => tensorTip(plot, i),
    at: (x) => clamp(Math.floor((x - LANES_LEFT) / step), 0, names.length - 1),
  };
}

// Where everything goes.
function tensorPlot(c, W, lanes, height) {
  const names = c.order;
  const step = (W - LANES_LEFT - LANES_RIGHT) / names.length;
  const X = (i) => LANES_LEFT + (i + 0.5) * step;
  return { c, W, names, step, X, height, H: lanes.length * (height + LANE_GAP) + 20 };
}

// One number of all tensors, from y down.
function tensorLane(plot, lane, y) {
  const { W, height } = plot;
  const scale = laneScale(plot, lane, y);
  const bottom = lane === "gain" ? scale.Y(0) : y + height;
  return (
    text(0, y + height / 2 + 4, laneHeading(plot.c.catalog, lane), "label") +
    laneNumbers(plot, lane, y, scale) +
    line(LANES_LEFT, bottom, W - LANES_RIGHT, bottom, lane === "gain" ? "axis" : "grid") +
    (scale.nothing ? "" : laneMarks(plot, lane, scale))
  );
}

// What a lane shows of each tensor: [B − A], or [A, B] in the lane's unit.
function laneValues({ c, names }, lane) {
  const [a, b] = c.sides.map((s) => s.name);
  const column = lane === "gain" ? 0 : c.catalog.summary_columns.indexOf(lane);
  const unit = laneUnit(lane);
  const stored = (name, recipe) => num(c.summaryOf(name, recipe)?.[column]);
  if (lane === "gain") return names.map((name) => [stored(name, b) - stored(name, a)]);
  return names.map((name) => [unit * stored(name, a), unit * stored(name, b)]);
}

function laneScale(plot, lane, y) {
  const { height } = plot;
  const values = laneValues(plot, lane);
  const all = values.flat().filter(Number.isFinite);
  const [low, high, nothing] = laneRange(lane, all);
  const Y = (v) => y + height - ((v - low) / (high - low)) * height;
  return { values, low, high, nothing, empty: !all.length, Y };
}

// From where to where, and whether all are 0. Only SQNR may leave 0 out.
function laneRange(lane, all) {
  const least = Math.min(...all);
  const most = Math.max(...all);
  const around = lane === "sqnr_db" ? [least, most] : [Math.min(0, least), Math.max(0, most)];
  const nothing = all.length > 0 && around[0] === 0 && around[1] === 0;
  const span = around[1] - around[0];
  if (span >= LEAST_SPAN) return [...around, nothing];
  if (span > 0) return around[1] > 0 ? [around[0], around[0] + LEAST_SPAN, nothing] : [-LEAST_SPAN, 0, nothing];
  const flat = lane === "sqnr_db" && all.length ? [least - 0.5, most + 0.5] : [0, 1];
  return [...flat, nothing];
}

// The lane's ends, and 0 where it is clear of both
function laneNumbers({ height }, lane, y, { low, high, nothing, empty, Y }) {
  if (nothing) return text(LANES_LEFT + 4, y + height - 5, lane === "gain" ? "no difference" : "none", "soft");
  if (empty) return "";
  const inside = low < 0 && high > 0 && Math.min(Y(0) - Y(high), Y(low) - Y(0)) > 11;
  const shown = lane === "gain" ? signed : fixed;
  const digits = digitsFor(high - low);
  const one = (v) => text(LANES_LEFT - 7, Y(v) + 3.5, v === 0 ? "0" : shown(v, digits), "soft end");
  return [high, low, ...(inside ? [0] : [])].map(one).join("");
}

function digitsFor(span) {
  if (span >= 20) return 0;
  if (span >= 2) return 1;
  return span >= 0.2 ? 2 : 3;
}

function laneMarks(plot, lane, scale) {
  const mark = lane === "gain" ? gainBar : sidesMark;
  return plot.names.map((name, i) => mark(plot, lane, scale, name, plot.X(i), scale.values[i])).join("");
}

// A bar from 0: upwards where B is better.
function gainBar({ step }, lane, { Y }, name, x, [gain]) {
  if (!Number.isFinite(gain)) return "";
  const top = Math.min(Y(0), Y(gain));
  const at = { "data-tensor": name, "data-gain": gain };
  const half = Math.max(step * 0.3, 0.6);
  return rect(x - half, top, Math.max(step * 0.6, 1.2), Math.abs(Y(gain) - Y(0)), `bar ${gain > 0 ? "b" : "a"}`, at);
}

// A's disc and B's diamond, joined
function sidesMark({ step }, lane, { Y }, name, x, values) {
  const r = clamp(step / 4, 1.2, 3.6);
  let out = values.every(Number.isFinite) ? line(x, Y(values[0]), x, Y(values[1]), "join") : "";
  values.forEach((v, i) => {
    if (!Number.isFinite(v)) return;
    const at = { "data-tensor": name, "data-lane": lane, "data-side": SIDES[i], "data-value": v / laneUnit(lane) };
    out += tag("g", at, dot(x, Y(v), SIDES[i], r));
  });
  return out;
}

const orderLabel = ({ c, H }) => text(LANES_LEFT, H - 4, ORDER_TEXT[c.sort], "soft");

// Layers are numbered below, as many as fit. What has no layer goes by its name, where there is room.
function layerLabels({ c, W, names, step, X, H }) {
  let out = "";
  let end = -99; // of the label before
  const layerOrName = (name) => c.layerOf.get(name) ?? (step > 46 ? name : null);
  for (const [of, group] of groups(names, layerOrName)) {
    const middle = (X(names.indexOf(group[0])) + X(names.indexOf(group.at(-1)))) / 2;
    const room = Math.max(step * group.length, 30);
    const label = groupLabel(of, group, room);
    const half = widthOf(label) / 2;
    const x = Math.min(middle, W - half);
    if (x - half <= end + 5 || 2 * half > Math.max(room, 60)) continue;
    out += text(x, H - 4, label, "soft mid");
    end = x + half;
  }
  const numbered = names.some((name) => c.layerOf.get(name) !== null);
  return numbered ? out + text(LANES_LEFT - 7, H - 4, "layer", "soft end") : out;
}

// A dot before a digit belongs to a number: "x1.26"; of a name that ends in a dot, all
export const lastPart = (name) => name.split(/\.(?!\d)/).at(-1) || name;

function groupLabel(of, group, room) {
  if (of === null) return group.length > 2 ? "others" : lastPart(group[0]);
  const whole = lastPart(String(of));
  return typeof of === "string" ? startOf(whole, room) : whole;
}

function groups(list, key) {
  const grouped = new Map();
  for (const v of list) {
    const k = key(v);
    if (grouped.has(k)) grouped.get(k).push(v);
    else grouped.set(k, [v]);
  }
  return grouped;
}

function tensorTip({ c, W, names, X, H }, i) {
  const shown = c.sides.map(({ side, name }) => {
    const db = c.summaryOf(names[i], name)?.[0];
    return db === undefined ? "" : `   ${side.toUpperCase()} ${fixed(db)} dB`;
  });
  const label = names[i] + shown.join("");
  const room = W - 14 - 6.2 * shown.join("").length;
  const written = endOf(names[i], room) + shown.join("");
  const width = Math.min(14 + written.length * 6.2, W);
  const left = clamp(X(i) - width / 2, 0, W - width);
  return {
    label,
    svg: line(X(i), 0, X(i), H - 18, "hair") + tip(left, H - 19, width, 19, text(left + 7, H - 5, written)),
  };
}
