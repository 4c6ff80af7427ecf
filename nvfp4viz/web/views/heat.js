// Every tensor as a cell, layer by kind: where to look first among hundreds of tensors and experts.

import { CURSOR, rect, text, tip } from "../lib/svg.js";
import { clamp, endOf, fixed, nearest, num, quantity, widthOf } from "../lib/text.js";

const HEAT_TOP = 4;
const HEAT_ROW = 17; // the height of one
const HEAT_LEGEND = 40;
const NARROW_LEGEND = 56; // with the words below the colours

// What cells show: of A and B, or the difference; `worse` says which end is drawn strongest
const MEASURES = {
  error: { label: "A's SQNR, dB", value: ([a]) => a?.[0], worse: "low" },
  gain: { label: "B − A, dB", value: ([a, b]) => b?.[0] - a?.[0], worse: "both" },
  saturation: { label: "4 saturates under A, %", value: ([a], at) => 100 * a?.[at], worse: "high" },
};

export function drawHeat(c, W, measure) {
  const { rows, layers } = heatCells(c, measure);
  const names = rows.map((row) => row.kind);
  const left = clamp(Math.max(...names.map(widthOf)) + 14, 60, W * 0.4);
  const width = Math.min((W - left - 8) / layers.length, 34);
  const plot = { c, W, left, width, layers, ...heatScale(rows, measure), measure };
  const H = HEAT_TOP + rows.length * HEAT_ROW + (isNarrow(plot) ? NARROW_LEGEND : HEAT_LEGEND);
  const cells = rows.flatMap((row, r) => row.cells.map((cell) => ({ ...cell, r, kind: row.kind })));
  const key = [W, measure, c.tensor, c.sort, c.filter, ...c.sides.map((s) => s.name), c.version].join();
  return {
    key,
    H,
    out: rows.map((row, r) => heatRow(plot, row, r)).join("") + heatLegend(plot, rows.length) + CURSOR,
    label: `${MEASURES[measure].label} of ${quantity(c.order.length, "tensor")}, layers by kinds; click one, or use the arrow keys.`,
    cells,
    stops: cells.map((_, i) => i),
    point: (i) => heatTip(plot, cells[i]),
    at: (x, y) => {
      const r = clamp(Math.floor((y - HEAT_TOP) / HEAT_ROW), 0, rows.length - 1);
      const column = clamp(Math.floor((x - left) / width), 0, layers.length - 1);
      return nearest([...cells.keys()], (i) => 1000 * Math.abs(cells[i].r - r) + Math.abs(cells[i].column - column));
    },
  };
}

const DECIMAL = /((?:^|[^._/[\d])\d+)\.(?=\d+$)/; // whose dot parts no layer from an expert: "x1.26"

// A tensor's name without its layer's and its expert's number; what is alike stands in one row.
export const kindOf = (name) =>
  name
    .replace(DECIMAL, "$1\0")
    .replace(/(^|[._/[])(?:model|transformer|language_model|layers|blk|h)(?=[._/[])/g, "$1")
    .replace(/(^|[._/[])\d+(?=$|[._/\]])/g, "$1")
    .replace(/([._/[\]])[._/[\]]+/g, "$1")
    .replace(/^[._/]|[._/]$/g, "")
    .replace("\0", ".") || name;

function heatCells(c, measure) {
  const column = c.catalog.summary_columns.indexOf("four_saturated");
  const shown = new Set(c.order);
  const names = c.catalog.tensors.map((t) => t.name).filter((name) => shown.has(name));
  const layers = [...new Set(names.map((name) => c.layerOf.get(name) ?? null))];
  const byKind = new Map();
  for (const name of names) {
    const both = c.sides.map((s) => c.summaryOf(name, s.name)?.map(num));
    const value = MEASURES[measure].value(both, column);
    const at = layers.indexOf(c.layerOf.get(name) ?? null);
    const row = byKind.get(kindOf(name)) || byKind.set(kindOf(name), new Map()).get(kindOf(name));
    row.set(at, [...(row.get(at) || []), { name, value }]);
  }
  const rows = [...byKind].map(([kind, cells]) => ({
    kind,
    cells: [...cells].map(([at, tensors]) => ({ column: at, many: tensors.length, ...worstOf(tensors, measure) })),
  }));
  return { rows: c.sort === "layer" ? rows : worstFirst(rows, measure), layers };
}

// In the strip's order, too, the kind with the worst cell comes first.
function worstFirst(rows, measure) {
  const value = ({ cells }) => farOf(measure)(worstOf(cells, measure).value) || 0;
  return rows.sort((p, q) => value(p) - value(q));
}

const farOf = (measure) => ({ low: (v) => v, high: (v) => -v, both: (v) => v })[MEASURES[measure].worse];

// Of several in one cell, such as experts, the one to look at
function worstOf(tensors, measure) {
  const known = tensors.filter((t) => Number.isFinite(t.value));
  return known.length ? nearest(known, (t) => farOf(measure)(t.value)) : tensors[0];
}

function heatScale(rows, measure) {
  const values = rows.flatMap((row) => row.cells.map((cell) => cell.value)).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (!values.length) return { low: 0, high: 1, paint: () => "none" };
  if (MEASURES[measure].worse === "both") {
    const reach = Math.max(Math.abs(low), Math.abs(high), 0.01);
    const paint = (v) => mixed(v < 0 ? "var(--a)" : "var(--b)", Math.abs(v) / reach);
    return { low: -reach, high: reach, paint };
  }
  const span = Math.max(high - low, 0.01);
  const strength = (v) => (MEASURES[measure].worse === "low" ? (high - v) / span : (v - low) / span);
  return { low, high, paint: (v) => mixed("var(--ink)", strength(v)) };
}

const mixed = (color, share) => `color-mix(in oklab, ${color} ${Math.round(6 + 84 * clamp(share, 0, 1))}%, var(--paper))`;

function heatRow({ left, width, paint, c }, row, r) {
  const y = HEAT_TOP + r * HEAT_ROW;
  const cell = ({ column, name, value }) => {
    const known = Number.isFinite(value);
    const at = { "data-tensor": name, "data-heat": value, style: `fill:${known ? paint(value) : "none"}` };
    const cls = name === c.tensor ? "cell chosen" : "cell";
    return rect(left + column * width, y, Math.max(width - 1, 1), HEAT_ROW - 1, cls, at);
  };
  return text(left - 6, y + 12, endOf(row.kind, left - 8), "soft end") + row.cells.map(cell).join("");
}

const isNarrow = ({ W, left }) => W - left < 330;

function heatLegend(plot, rows) {
  const { left, width, layers, low, high, paint, measure } = plot;
  const y = HEAT_TOP + rows * HEAT_ROW;
  const every = Math.ceil(26 / width);
  const numbers = layers.map((layer, i) =>
    layer === null || i % every ? "" : text(left + (i + 0.5) * width, y + 13, layer, "soft mid"),
  );
  const steps = Array.from({ length: 11 }, (_, i) => low + ((high - low) * i) / 10);
  const swatches = steps.map((v, i) => rect(left + i * 9, y + 22, 9, 10, "", { style: `fill:${paint(v)}` }));
  const { label } = MEASURES[measure];
  const narrow = isNarrow(plot);
  return (
    numbers.join("") +
    text(left - 6, y + 13, "layer", "soft end") +
    text(left - 6, y + 31, fixed(low), "soft end") +
    swatches.join("") +
    text(left + 105, y + 31, narrow ? fixed(high) : `${fixed(high)}  ${label}`, "soft") +
    (narrow ? text(left, y + 47, label, "soft") : "")
  );
}

function heatTip({ W, left, width, measure }, { name, value, column, r, many }) {
  const more = many > 1 ? `, the worst of ${many}` : "";
  const label = `${name}: ${fixed(value, 3)} (${MEASURES[measure].label}${more})`;
  const shown = 14 + label.length * 6.2 < W ? label : `${fixed(value, 3)}  ${name}`;
  const wide = Math.min(14 + shown.length * 6.2, W);
  const x = clamp(left + column * width - wide / 2, 0, W - wide);
  const y = HEAT_TOP + (r + 1) * HEAT_ROW + 2;
  const room = Math.floor((wide - 14) / 6.2);
  return { label, svg: tip(x, y, wide, 19, text(x + 7, y + 14, shown.slice(0, room))) };
}
