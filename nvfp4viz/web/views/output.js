// What the model's output feels: tensor error beside output error, and what keeping layers costs and brings.

import { SIDES } from "../lib/sides.js";
import { CURSOR, dot, line, rect, tag, text, tip } from "../lib/svg.js";
import { clamp, endOf, fixed, nearest, num, short, ticks, widthOf } from "../lib/text.js";

const ROW = 17; // the height of one
const TOP = 22; // room for the heads
export const RANKED = 24; // rows that are drawn
const LETTER = 6.4; // the width of one, about

// Units or layers, the largest effect on the output first: A's and B's SQNR of the worst input, and the KL.
export function drawRanking(c, W, ranking) {
  const rows = ranking.rows.slice(0, RANKED).map((row) => ({ ...row, ...worstOf(c, row.tensors) }));
  const names = clamp(Math.max(...rows.map((r) => widthOf(r.name))) + 14, 70, W * 0.38);
  const bars = kinds(ranking, rows, W);
  const each = (W - names) / (1 + bars.length);
  const common = commonPrefix(rows.map((row) => row.name));
  const plot = { c, W, names, common, width: each - 74, X: dbScale(rows, names + 10, each - 24) };
  const columns = bars.map((bar, i) => ({ ...bar, x: names + each * (i + 1) }));
  const heads = [text(names + 4, 10, "SQNR, dB", "soft"), ...columns.map(({ x, head }) => text(x, 10, head.length * LETTER < each ? head : "KL", "soft"))];
  return {
    H: TOP + rows.length * ROW + 16,
    out: heads.join("") + rows.map((row, i) => rankedRow(plot, columns, row, i)).join("") + dbAxis(plot, rows.length) + CURSOR,
    label: `${rows.length} of ${ranking.rows.length} by their effect on the output under ${ranking.recipe}; click one, or use the arrow keys.`,
    rows,
    stops: rows.map((_, i) => i),
    point: (i) => rankedTip(plot, bars, rows[i], i),
    at: (x, y) => clamp(Math.floor((y - TOP) / ROW), 0, rows.length - 1),
  };
}

// How long the dotted beginning is that all names have
function commonPrefix([first, ...others]) {
  const parts = first.split(".");
  const shared = (n) => others.every((name) => name.startsWith(parts.slice(0, n).join(".") + "."));
  const n = parts.findIndex((_, i) => i + 1 === parts.length || !shared(i + 1));
  return n ? parts.slice(0, n).join(".").length + 1 : 0;
}

// The input with the least SQNR under A, and that under both recipes
function worstOf(c, tensors) {
  const db = (tensor) => c.sides.map((s) => num(c.summaryOf(tensor, s.name)?.[0]));
  const seen = tensors.filter((t) => Number.isFinite(db(t)[0]));
  const tensor = seen.length ? nearest(seen, (t) => db(t)[0]) : tensors[0];
  return { tensor, db: tensor === undefined ? [] : db(tensor) };
}

// The columns of KL: what was measured, and what is predicted where there is room or nothing else
function kinds({ measured }, rows, W) {
  const has = (name) => rows.some((row) => Number.isFinite(row[name]));
  const all = [
    { name: "predicted", head: "predicted KL", cls: "pale" },
    { name: "measured", head: measured, cls: "solid" },
  ].filter(({ name }) => has(name));
  const shown = W < 640 ? all.slice(-1) : all;
  return shown.map((kind) => ({ ...kind, most: Math.max(...rows.map((row) => row[kind.name] || 0)) || 1 }));
}

function dbScale(rows, left, width) {
  const all = rows.flatMap((row) => row.db).filter(Number.isFinite);
  if (!all.length) return Object.assign(() => left, { marks: [] });
  const [low, high] = [Math.min(...all) - 0.5, Math.max(...all) + 0.5];
  return Object.assign((v) => left + ((v - low) / (high - low)) * width, { marks: ticks(low, high, width < 120 ? 2 : 4) });
}

function dbAxis({ X }, rows) {
  const bottom = TOP + rows * ROW;
  const one = (v) => line(X(v), TOP - 4, X(v), bottom, "grid") + text(X(v), bottom + 13, tickShown(v), "soft mid");
  return X.marks.map(one).join("");
}

const tickShown = (v) => fixed(v, Number.isInteger(v) ? 0 : 1);

function rankedRow(plot, columns, row, i) {
  const { c, names, common, width, X } = plot;
  const y = TOP + i * ROW;
  const room = names - 8;
  const brief = widthOf(row.name) > room ? row.name.slice(common) : row.name; // what all begin with tells none apart
  const name = endOf(brief, room);
  const cls = [row.tensor === undefined ? "soft" : "pick", row.kept && "strong", row.tensor === c.tensor && "here"];
  const dots = row.db.map((v, k) => {
    const at = { "data-unit": row.name, "data-side": SIDES[k], "data-value": v };
    return Number.isFinite(v) ? tag("g", at, dot(X(v), y + 8, SIDES[k], 3)) : "";
  });
  const bars = columns.map(({ name: what, x, most, cls: look }) => {
    const value = row[what];
    if (!Number.isFinite(value)) return "";
    const at = { "data-unit": row.name, [`data-${what}`]: value };
    const wide = (Math.max(0, value) / most) * width;
    return rect(x, y + 3, wide, ROW - 7, `effect ${look}`, at) + text(x + wide + 5, y + 12, short(value, 3), "soft");
  });
  return text(0, y + 12, name, cls.filter(Boolean).join(" ")) + dots.join("") + bars.join("");
}

function rankedTip({ W }, bars, row, i) {
  const sides = row.db.map((v, k) => `${SIDES[k].toUpperCase()} ${fixed(v)} dB`);
  const seen = row.tensor === undefined ? ["no input of it was recorded"] : sides;
  const effects = bars
    .filter(({ name }) => Number.isFinite(row[name]))
    .map(({ name, head }) => `${head} ${short(row[name], 3)}`);
  const parts = [row.name + (row.kept ? " (kept)" : ""), ...seen, ...effects];
  return { label: parts.join(", "), svg: boxed(W, 0, TOP + (i + 1) * ROW, parts) };
}

// A box that stays inside the picture, with as many lines as its parts need
export function boxed(W, x, y, parts) {
  const room = Math.floor((W - 14) / LETTER);
  const lines = [];
  for (const part of parts) {
    const longer = lines.length ? `${lines.at(-1)} · ${part}` : part;
    if (lines.length && longer.length <= room) lines[lines.length - 1] = longer;
    else lines.push(part.slice(0, room));
  }
  const width = 14 + Math.max(...lines.map((l) => l.length)) * LETTER;
  const left = clamp(x, 0, Math.max(0, W - width));
  const written = lines.map((l, i) => text(left + 7, y + 14 + 15 * i, l));
  return tip(left, y, width, 4 + 15 * lines.length, written.join(""));
}

// KL against bits a weight, a mark for each set of kept layers
export function drawFrontier(W, { points, knee }, H = 280) {
  const most = Math.max(...points.flatMap((p) => [p.kl, p.high ?? 0, p.other ?? 0])) || 1;
  const [first, last] = [Math.min(...points.map((p) => p.bits)), Math.max(...points.map((p) => p.bits))];
  const [left, right, top, bottom] = [62, W - 14, 10, H - 34];
  const X = (v) => left + ((v - first) / (last - first || 1)) * (right - left);
  const Y = (v) => bottom - (v / (most * 1.05)) * (bottom - top);
  const path = (values) => values.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
  const banded = points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high));
  const ends = [...banded.map((p) => [p.bits, p.high]), ...banded.map((p) => [p.bits, Math.max(0, p.low)]).reverse()];
  const other = points.filter((p) => Number.isFinite(p.other));
  const marks = points.map((p, i) => {
    const at = { cx: X(p.bits), cy: Y(p.kl), r: i === knee ? 6 : 4, class: "mark one", "data-kl": p.kl, "data-bits": p.bits };
    return tag("circle", at);
  });
  const name = `knee: ${points[knee].kept} kept, ${fixed(points[knee].bits)} bits`;
  const at = [X(points[knee].bits) + 10, Y(points[knee].kl) - 10];
  return {
    H,
    out:
      axes({ X, Y, left, right, bottom, top, xs: ticks(first, last, W < 500 ? 4 : 8), ys: ticks(0, most, 4) }) +
      text(right, H - 4, "bits a weight", "soft end") +
      text(0, top + 2, "KL", "soft") +
      (banded.length ? tag("path", { d: path(ends) + "Z", class: "band" }) : "") +
      tag("path", { d: path(points.map((p) => [p.bits, p.kl])), class: "curve one" }) +
      (other.length ? tag("path", { d: path(other.map((p) => [p.bits, p.other])), class: "curve two" }) : "") +
      marks.join("") +
      text(Math.min(at[0], right - name.length * LETTER), Math.max(at[1], top + 8), name, "strong") +
      CURSOR,
    label: `KL against bits a weight of ${points.length} sets of kept layers; ${name}.`,
    stops: points.map((_, i) => i),
    point: (i) => frontierTip({ W, X, Y, top, bottom }, points[i]),
    at: (x) => nearest([...points.keys()], (i) => Math.abs(X(points[i].bits) - x)),
  };
}

// Lines and numbers of both axes
export function axes({ X, Y, left, right, top, bottom, xs, ys }) {
  const across = ys.map((v) => line(left, Y(v), right, Y(v), "grid") + text(left - 6, Y(v) + 4, short(v, 3), "soft end"));
  const along = xs.map((v) => line(X(v), bottom, X(v), bottom + 4, "axis") + text(X(v), bottom + 16, short(v, 3), "soft mid"));
  return across.join("") + along.join("") + line(left, bottom, right, bottom, "axis") + line(left, top, left, bottom, "grid");
}

function frontierTip({ W, X, Y, top, bottom }, p) {
  const interval = Number.isFinite(p.low) ? ` (${short(Math.max(0, p.low), 3)} to ${short(p.high, 3)})` : "";
  const parts = [
    `${p.kept} kept`,
    `KL ${short(p.kl, 4)}${interval}`,
    ...(Number.isFinite(p.other) ? [`on other text ${short(p.other, 3)}`] : []),
    `${fixed(p.bits)} bits a weight`,
    `${fixed(100 * p.share, 0)} % of multiply-adds in FP4`,
  ];
  const hair = line(X(p.bits), top, X(p.bits), bottom, "hair");
  return { label: parts.join(", "), svg: hair + boxed(W, X(p.bits) - 60, Math.max(top, Y(p.kl) - 44), parts) };
}
