// One block under A and under B: the 16 values between the grid of scale 6 above and of scale 4 below.

import { markedName } from "../lib/recipe.js";
import { SIDES } from "../lib/sides.js";
import { hundredth, line, placed, rect, tag, text } from "../lib/svg.js";
import { clamp, fixed, hex, minus, nearest, num, percent, short, tenTo } from "../lib/text.js";

export const BLOCK_NARROWEST = 280;
// Where things stand in one recipe's part, `each` high: the values, and the rails they fall on; and the table's cells.
const BLOCK_WIDE = { left: 176, right: 128, each: 158, rails: [22, 122], middle: 72, columns: 16, cells: 112 };
// The same with the texts above and below the rails, and the table in two parts
const BLOCK_NARROW = { left: 22, right: 8, each: 216, rails: [66, 166], middle: 116, columns: 8, cells: 100 };
const BLOCK_TINY = { ...BLOCK_NARROW, columns: 4, cells: 84 };
const LABELLED = [0, 1, 2, 3, 4, 6]; // of E2M1's values; 0.5 and 1.5 have no room
const FEW_LABELLED = [0, 2, 4, 6];
const CELL_ROW = 18;
const AXIS_STEP = 1.125; // between one reach of the axis and the next

export function drawBlock(c, W, look, chosen) {
  const inspections = c.sides.map((s) => look.inspections[s.name]);
  const { values } = inspections[0];
  const place = placeFor(W);
  const X = valueAxis(inspections, W, place);
  const plot = { catalog: c.catalog, W, X, chosen, place };
  const names = c.sides.map((s) => markedName(s.name, s.entry.settings));
  const parts = inspections.map((_, i) => ({ ...plot, side: SIDES[i], name: names[i], top: i * place.each }));
  const tried = inspections.map((one, i) => blockPart(parts[i], one));
  const columns = [...values.keys()];
  const tables = []; // one below the other
  for (let first = 0; first < columns.length; first += place.columns) {
    const y = (tables.at(-1)?.bottom ?? 2 * place.each) + 22;
    tables.push(blockTable(plot, look, inspections, y, columns.slice(first, first + place.columns)));
  }
  return {
    out: tried.join("") + tables.map((table) => table.out).join(""),
    H: tables.at(-1).bottom,
    label: blockLabel(look, inspections),
    at: (x, y) => {
      const table = tables.findLast((one) => y > one.top);
      return table ? table.at(x) : nearest(columns, (t) => Math.abs(X(values[t]) - x));
    },
  };
}

function placeFor(W) {
  if (W < 400) return BLOCK_TINY;
  return W < 760 ? BLOCK_NARROW : BLOCK_WIDE;
}

function blockLabel({ token, block }, inspections) {
  const chose = inspections.map((f, i) => `${SIDES[i].toUpperCase()} chose ${f.choice}, byte ${hex(f.byte)}`).join("; ");
  return (
    `Block of token ${token}, columns ${block * 16} to ${block * 16 + 15}: ${chose}. ` +
    "Left and right choose a value."
  );
}

// Room for the largest that a candidate can hold, and for the values; in steps, so that places stay while a value is
// dragged
function valueAxis(inspections, W, place) {
  const largest = inspections.flatMap((f) => f.candidates.map((k) => 6 * num(k.step)));
  const needed = Math.max(...largest, ...inspections[0].values.map(Math.abs)) || 1;
  const reach = AXIS_STEP ** Math.ceil(Math.log(needed) / Math.log(AXIS_STEP));
  const from = place.left;
  const to = W - place.right;
  return (v) => (from + to) / 2 + (clamp(v / reach, -1.02, 1.02) * (to - from - 16)) / 2;
}

// One recipe: the candidates it tried round the line of values.
function blockPart(plot, inspection) {
  const { W, X, place, side, name, chosen, top } = plot;
  const { candidates } = inspection;
  const middle = top + place.middle;
  const at = { "data-side": side, "data-choice": inspection.choice, "data-byte": inspection.byte };
  const chose = candidates.length > 1 ? `chose ${inspection.choice}` : "always 6";
  const won = candidates.length > 1 ? wonBy(inspection) : "";
  const value = (v, t) => {
    const [r, cls] = t === chosen ? [5, "value chosen"] : [3.2, "value "];
    return tag("circle", { cx: X(v), cy: middle, r, class: cls, "data-column": t });
  };
  const named =
    place !== BLOCK_WIDE
      ? text(place.left, top + 16, name, `strong ${side}-ink`, at) +
        text(W, top + 16, won || chose, `end score ${side}-ink strong`)
      : text(22, middle - 8, name, `strong ${side}-ink`, at) +
        text(22, middle + 9, chose, "score") +
        (won && text(W, middle + 4, won, `end score ${side}-ink strong`));
  return (
    text(0, middle - 5, side.toUpperCase(), `letter ${side}-ink`) +
    named +
    line(place.left, middle, W - place.right, middle, "grid") +
    candidates.map((k, j) => candidate(plot, inspection, k, j, top + place.rails[j], middle)).join("") +
    inspection.values.map(value).join("")
  );
}

// One scale that was tried: its grid as a rail at y, and how each value falls on it. The first is above the values.
function candidate(plot, inspection, k, j, y, middle) {
  const { X, side, chosen } = plot;
  const wins = k.to === inspection.choice;
  const cls = wins ? side : "lost";
  const fall = (t) => `M${hundredth(X(inspection.values[t]))} ${middle}L${hundredth(X(num(k.decoded[t])))} ${y}`;
  const falls = inspection.values.map((_, t) => fall(t)); // in one path: a browser draws 16 lines much slower
  const at = { "data-side": side, "data-to": k.to, "data-decoded": k.decoded.join(" ") };
  return (
    tag("path", { d: falls.join(""), class: `fall ${cls}`, ...at }) +
    tag("path", { d: falls[chosen], class: `fall chosen ${cls}` }) +
    rail(plot, k, y, j ? 16 : -8, cls) +
    candidateText(plot, inspection, k, j, y, wins)
  );
}

// Scale and score: beside the rail, or on a line of their own where that is narrow. As many texts always, some of them
// empty: what follows one that came or went would all be drawn anew.
function candidateText({ W, place, side }, inspection, k, j, y, wins) {
  const scale = `to ${k.to}:  ${hex(k.byte)} = ${short(k.block_scale)}`;
  const unfit = k.saturated ? `${short(k.h)} saturates` : "";
  const what = inspection.err_mode === "MAE" ? "sum |error|" : "sum error²";
  const at = { "data-side": side, "data-to": k.to, "data-score": k.score };
  const loud = wins ? "strong" : "soft";
  if (place !== BLOCK_WIDE) {
    const row = j ? y + 36 : y - 27;
    const beside = place !== BLOCK_TINY; // or in the scale's place
    const what4 = unfit && !beside ? `to ${k.to}:  ${short(k.h)} saturates` : scale;
    return (
      text(place.left, row, what4, unfit && !beside ? "tried warn" : wins ? "tried" : "tried soft") +
      text(place.left + 130, row, beside ? unfit : "", "tried warn") +
      text(W - 72, row, short(k.score, 4), `end score ${loud}`, at) +
      text(W, row, what, "end score soft")
    );
  }
  return (
    text(22, y + 4, scale, wins ? "tried" : "tried soft") +
    text(22, y + 18, unfit, "tried warn") +
    text(W, y - 2, short(k.score, 4), `end score ${loud}`, at) +
    text(W, y + 12, what, "end score soft")
  );
}

// The grid that a scale gives, marked at each value of E2M1 and labelled where there is room
function rail({ catalog, X, place }, k, y, below, cls) {
  const values = catalog.e2m1.flatMap((v) => (v ? [v, -v] : [0]));
  const x = (v) => hundredth(X(v * k.step));
  const marks = values.map((v) => `M${x(v)} ${y - 4}v8`);
  const labelled = values.filter((v) => (place === BLOCK_TINY ? FEW_LABELLED : LABELLED).includes(Math.abs(v)));
  const label = (v) => placed(x(v), y + below, text(0, 0, minus(String(v)), "soft mid tick"));
  return (
    tag("path", { d: `M${x(-6)} ${y}H${x(6)}${marks.join("")}`, class: `rail ${cls}` }) + labelled.map(label).join("")
  );
}

function wonBy({ choice, candidates }) {
  const [six, four] = candidates.map((k) => num(k.score));
  if (!(six < four || four < six)) return "a tie goes to 6";
  const [less, more] = [Math.min(six, four), Math.max(six, four)];
  return `${choice} wins by ${percent(more === Infinity ? 1 : (more - less) / more)}`;
}

// Some of the 16 values, and what A and B make of them
function blockTable({ W, place, chosen }, look, inspections, y, columns) {
  const cell = (W - place.cells) / columns.length;
  const right = (t) => place.cells + (t - columns[0] + 1) * cell - 4;
  const rows = tableRows(inspections);
  const size = powerOf(inspections[0].values); // errors get the values' decimals
  const heads = columns.map((t) => text(right(t), y - 2, look.block * 16 + t, "soft end"));
  const drawn = rows.map((row, r) => tableRow(row, y + 17 + r * CELL_ROW, right, size, columns));
  const height = rows.length * CELL_ROW;
  const at = right(chosen) + 4 - cell;
  const here = columns.includes(chosen) ? rect(at, y - 16, cell, height + 22, "here", { rx: 2 }) : "";
  return {
    out: here + heads.join("") + text(0, y - 2, "column", "soft") + drawn.join(""),
    top: y - 20,
    bottom: y + height + 10,
    at: (x) => columns[clamp(Math.floor((x - place.cells) / cell), 0, columns.length - 1)],
  };
}

function tableRows(inspections) {
  const bySide = inspections.flatMap((f, i) => {
    const { decoded, errors } = f.candidates.find((k) => k.to === f.choice);
    const ink = `${SIDES[i]}-ink`;
    const letter = SIDES[i].toUpperCase();
    return [
      { label: `${letter} decoded`, stored: decoded, ink: `decoded ${ink}`, cls: "decoded" },
      { label: `${letter} error`, stored: errors, ink: `decoded ${ink}`, cls: "decoded soft" },
    ];
  });
  return [{ label: "value", stored: inspections[0].values, ink: "label", cls: "" }, ...bySide];
}

// A row of very small or very large values has a power of ten in front of it.
function tableRow({ label, stored, ink, cls }, y, right, size, columns) {
  const values = stored.map(num);
  const power = powerOf(values);
  const unit = power < -3 || power > 3 ? 10 ** power : 1;
  const digits = clamp(unit === 1 ? 2 - size : 2, 0, 5);
  const times = unit === 1 ? "" : ` ×${tenTo(power)}`;
  const one = (t) => {
    const v = values[t];
    const at = { "data-row": label, "data-column": t, "data-value": stored[t] };
    return text(right(t), y, v ? fixed(v / unit, digits) : "0", `end small ${cls}`, at);
  };
  return text(0, y, label + times, ink) + columns.map(one).join("");
}

const powerOf = (values) => Math.floor(Math.log10(Math.max(...values.map(Math.abs)) || 1));
