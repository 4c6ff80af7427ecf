// Error: numbers, then how tokens (and blocks) spread round them. Attribution is drawn where the statistics have it.

import { own } from "../lib/own.js";
import { SIDES } from "../lib/sides.js";
import { CURSOR, line, rect, sideColumn, sideHeads, tag, text, tip } from "../lib/svg.js";
import { clamp, counts, fixed, int, minus, nearest, num, short, signed, ticks } from "../lib/text.js";

const ERROR_NUMBERS = {
  sqnr_db: "SQNR, dB",
  nmse: "NMSE",
  mse: "MSE",
  mae: "MAE",
  max_error: "max |error|",
  cosine: "cosine",
};
const ERROR_ROW = 19; // the height of one
const SPREADS = [
  ["token_nmse", "tokens"],
  ["block_nmse", "blocks"],
];

// `whole`: on its own, with the blocks and the attribution; else beside another figure, H high.
export function drawError(c, W, H, whole) {
  const columns = [Math.min(W * 0.52, 250), Math.min(W * 0.76, 370), Math.min(W, 490)];
  const wide = W >= 800; // room for the attribution beside the numbers
  const shares = whole && sharesOf(c);
  let out = errorTable(c, columns);
  const beside = shares && wide ? Object.keys(shares[0]).length : 0;
  let y = 10 + ERROR_ROW * Math.max(Object.keys(ERROR_NUMBERS).length, beside);
  if (shares) out += wide ? drawParts(shares, columns[2] + 50, W, 10) : drawParts(shares, 0, W, y + 30);
  if (shares && !wide) y += 40 + ERROR_ROW * Object.keys(shares[0]).length;
  y += 30;
  const each = whole ? 150 : H - y;
  const kinds = whole ? SPREADS : SPREADS.slice(0, 1);
  const plots = kinds.map(([field, what], i) => spread(c, W, y + i * each, each - 36, field, what));
  const stops = plots.flatMap((plot) => plot.stops);
  const everywhere = stops.map((_, i) => i);
  return {
    out: out + plots.map((plot) => plot.out).join("") + CURSOR,
    H: whole ? y + kinds.length * each : H,
    label: `Error on ${c.tensor}: ` + c.sides.map(sqnrText).join(", "),
    stops: everywhere,
    point: (i) => stops[i]?.tip(),
    at: (x, py) => {
      const top = py < plots.at(-1).top ? plots[0].top : plots.at(-1).top; // of the plot that the pointer is in
      const inside = everywhere.filter((i) => stops[i].top === top);
      return nearest(inside, (i) => Math.abs(stops[i].x - x));
    },
  };
}

const sqnrText = ({ side, stats }) => `${side.toUpperCase()} ${fixed(stats.sqnr_db)} dB`;

// The attribution of A's and B's error, if both are known
function sharesOf(c) {
  const shares = c.sides.map((s) => s.stats.attribution || own(c.parts, s.name));
  return shares.every(Boolean) ? shares : null;
}

// Numbers under A and B, and how B compares
function errorTable(c, columns) {
  const heads = ["A", "B", "B against A"].map((head, i) =>
    text(columns[i], 10, head, `end strong ${i < 2 ? SIDES[i] + "-ink" : ""}`),
  );
  const row = ([name, label], i) => {
    const y = 10 + ERROR_ROW * (i + 1);
    const values = c.sides.map((s) => num(s.stats[name]));
    const cells = c.sides.map(({ side, stats }, k) => {
      const at = { "data-side": side, "data-number": name, "data-value": stats[name] };
      return text(columns[k], y, errorShown(name, values[k]), "end", at);
    });
    return text(0, y, label, "label") + cells.join("") + text(columns[2], y, against(name, ...values), "end soft");
  };
  return heads.join("") + Object.entries(ERROR_NUMBERS).map(row).join("");
}

function errorShown(name, v) {
  if (name === "sqnr_db") return fixed(v, 3);
  return short(v, name === "cosine" ? 6 : 4);
}

// B's number against A's
function against(name, a, b) {
  if (name === "sqnr_db") return `${signed(b - a, 3)} dB`;
  if (name === "cosine") return "";
  if (a === b) return "same";
  if (!a) return "";
  if (Math.abs(b / a - 1) < 5e-5) return "< 0.01 %";
  return `${signed((100 * (b - a)) / a, 2)} %`;
}

// The error's parts as shares of it; a negative one helps.
function drawParts(shares, x, W, y) {
  const names = Object.keys(shares[0]);
  const all = shares.flatMap(Object.values);
  const low = Math.min(0, ...all);
  const high = Math.max(...all, 1e-9);
  const from = x + 120;
  const to = W - 124;
  const X = (v) => from + ((v - low) / (high - low)) * (to - from);
  const one = (name, side, i, share, bottom) => {
    const at = { "data-side": side, "data-attribution": name, "data-value": share };
    const bar = rect(Math.min(X(0), X(share)), bottom - 9 + 6 * i, Math.abs(X(share) - X(0)), 5, `bar ${side}`);
    return bar + text(sideColumn(W, i), bottom, shareShown(share), "end", at);
  };
  const row = (name, k) => {
    const bottom = y + ERROR_ROW * (k + 1);
    const both = SIDES.map((side, i) => one(name, side, i, shares[i][name], bottom));
    return text(x, bottom, name, "label") + both.join("");
  };
  return (
    text(x, y, "Where it comes from", "strong") +
    sideHeads(W, y) +
    names.map(row).join("") +
    line(X(0), y + 6, X(0), y + ERROR_ROW * names.length + 5, "axis")
  );
}

function shareShown(share) {
  if (share === 0) return "0";
  return Math.abs(share) < 5e-5 ? "≈ 0" : `${minus((100 * share).toFixed(2))} %`;
}

// A distribution of NMSE over tokens or blocks, in dB, as steps: A filled, B a line.
function spread(c, W, y, height, field, what) {
  const plot = spreadPlot(c, W, y, height, field, what);
  const top = y - 20; // with the line of words above it
  if (!plot) return { out: text(0, y + 14, `no ${what} with values`, "soft"), stops: [], top };
  const out = spreadFrame(plot) + plot.rows.map((row) => spreadSteps(plot, row)).join("");
  const stops = plot.bins.map((bin) => {
    const x = (plot.X(plot.edges[bin]) + plot.X(plot.edges[bin + 1])) / 2;
    return { x, top, tip: () => spreadTip(plot, bin, x) };
  });
  return { out, stops, top };
}

// Where everything goes; nothing where nothing was counted. Edges are in dB of NMSE, so that the best is at the right.
function spreadPlot(c, W, y, height, field, what) {
  const edges = c.catalog.nmse_db;
  const rows = c.sides.map((s) => ({ ...s, bins: counts(s.stats[field]) }));
  const filled = rows.flatMap((r) => [...r.bins].filter(([, n]) => n).map(([bin]) => bin));
  if (!filled.length) return null;
  const first = Math.min(...filled);
  const last = Math.max(...filled);
  const least = edges[last + 1] - 0.4;
  const best = edges[first] + 0.4;
  const base = y + height - 4;
  const most = Math.max(...rows.flatMap((r) => [...r.bins.values()]));
  const X = (db) => 4 + ((db - least) / (best - least)) * (W - 16);
  const Y = (n) => base - (n / most) * (height - 18);
  const bins = Array.from({ length: last - first + 1 }, (_, i) => last - i); // from the left
  return { W, y, base, field, what, edges, rows, bins, first, last, least, best, most, X, Y };
}

function spreadFrame({ W, y, base, what, edges, first, last, least, best, most, X }) {
  const tick = (db) =>
    line(X(db), base, X(db), base + 4, "axis") + text(clamp(X(db), 14, W - 14), base + 16, minus(String(db)), "soft mid");
  return (
    text(0, y - 2, `SQNR of ${what}, dB`, "label") +
    text(W - 8, y - 2, `tallest ${int(most)}; dashed: the tensor`, "soft end") +
    tag("g", {}, ticks(least, best, 8).map(tick).join("")) +
    (first === 0 ? text(W - 8, y + 12, `← the last bar: ${endText(edges, 0)}`, "soft end", { "data-end": 0 }) : "") +
    (last === edges.length - 2 ? text(4, y + 12, `the first bar: ${endText(edges, last)}`, "soft", { "data-end": last }) : "") +
    line(0, base, W - 8, base, "axis")
  );
}

function spreadSteps({ W, y, base, field, edges, bins, X, Y }, { side, stats, bins: counted }) {
  const steps = bins.map((bin) => `V${Y(counted.get(bin) || 0).toFixed(1)}H${X(edges[bin]).toFixed(1)}`);
  const path = tag("path", {
    d: `M${X(edges[bins[0] + 1]).toFixed(1)},${base}${steps.join("")}V${base}`,
    class: `steps ${side}`,
    "data-side": side,
    "data-field": field,
    "data-counts": JSON.stringify(stats[field]),
  });
  const x = X(num(stats.sqnr_db)); // of the tensor
  return x >= 0 && x <= W ? path + line(x, base, x, y + 8, `mean ${side}`) : path;
}

// The first and the last bin have no other end.
function endText(edges, bin) {
  if (bin === 0) return `${fixed(edges[1], 1)} dB or better, up to no error`;
  if (bin === edges.length - 2) return `${fixed(edges[bin], 1)} dB or worse`;
  return `${fixed(edges[bin + 1], 1)} to ${fixed(edges[bin], 1)} dB`;
}

function spreadTip({ W, y, base, what, edges, rows }, bin, x) {
  const counted = rows.map((r) => `${r.side.toUpperCase()} ${int(r.bins.get(bin) || 0)}`).join(",  ");
  const label = `${endText(edges, bin)}:  ${counted} ${what}`;
  const width = 12 + label.length * 6;
  const left = clamp(x - width / 2, 0, W - width);
  return {
    label,
    svg: line(x, y + 8, x, base, "hair") + tip(left, y - 16, width, 20, text(left + 7, y - 2, label)),
  };
}
