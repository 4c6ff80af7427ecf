// Rates on a logarithmic axis, A and B joined; the definition below gives way to the counts under the pointer.

import { ratesOf, wholeOf } from "../lib/catalog.js";
import { CURSOR, apart, dot, line, sideColumn, sideHeads, tag, text } from "../lib/svg.js";
import { clamp, int, percent } from "../lib/text.js";

const RATE_ROW = 37; // the height of one
const RATES_TOP = 24;
const RATE_MARKS = [
  [0, "0"],
  [1e-4, "0.01 %"],
  [1e-3, "0.1"],
  [1e-2, "1 %"],
  [1e-1, "10"],
  [1, "100 %"],
];
const FIRST_MARKS = [0, 1, 1e-2]; // they have the room, where it is scarce
const NOT_MEASURED = [NaN, 0, 0]; // by the release that saved these statistics

export function drawClipping(c, W) {
  const rates = ratesOf(c.catalog);
  const X = rateAxis(W);
  const rows = rates.map((rate, i) => rateRow(c, W, X, i, rate));
  return {
    out: rateHead(W, X) + rows.join("") + CURSOR,
    H: RATES_TOP + rates.length * RATE_ROW,
    label: `Clipping rates of ${c.tensor}: ${rates.map((rate) => ratesText(c, rate)).join("; ")}`,
    stops: rates.map((_, i) => i),
    point: (i) => ({ label: ratesText(c, rates[i]), row: i, svg: "" }),
    at: (_, y) => clamp(Math.floor((y - RATES_TOP) / RATE_ROW), 0, rates.length - 1),
  };
}

// Logarithmic from 1e-5 to 1; 0 stands apart at the left end.
function rateAxis(W) {
  const from = 126;
  const to = W - 136;
  const floor = -5;
  return (v) => {
    if (v <= 0) return from;
    return from + 14 + clamp((Math.log10(v) - floor) / -floor, 0, 1) * (to - from - 14);
  };
}

function rateHead(W, X) {
  const weightOf = ([v]) => (FIRST_MARKS.indexOf(v) + 1 || FIRST_MARKS.length + 1);
  const marks = [...RATE_MARKS].sort((p, q) => weightOf(p) - weightOf(q)).map(([v, shown]) => [X(v), shown]);
  return apart(marks).map(([x, shown]) => text(x, 10, shown, "soft mid")).join("") + sideHeads(W, 10);
}

function rateRow(c, W, X, i, rate) {
  const { name, heading, definition } = rate;
  const y = RATES_TOP + i * RATE_ROW + 10;
  const values = c.sides.map((s) => s.stats.rates[name] || NOT_MEASURED);
  const one = ({ side }, k) => {
    const [rate, count, of] = values[k];
    const at = { "data-side": side, "data-rate": name, "data-value": rate, "data-count": count, "data-of": of };
    const shown = text(sideColumn(W, k), y + 4, percent(rate), `end ${rate ? side + "-ink" : "soft"}`);
    return values[k] === NOT_MEASURED ? shown : tag("g", at, dot(X(rate), y, side, 4) + shown);
  };
  const count = (v) => (v === NOT_MEASURED ? "not measured" : `${int(v[1])} of ${int(v[2])}`);
  const counted = c.sides.map((s, k) => `${s.side.toUpperCase()} ${count(values[k])}`);
  return (
    RATE_MARKS.map(([v]) => line(X(v), y - 6, X(v), y + 6, "grid")).join("") +
    text(0, y + 4, heading, "label") +
    (values.includes(NOT_MEASURED) ? "" : line(X(values[0][0]), y, X(values[1][0]), y, "join")) +
    c.sides.map(one).join("") +
    text(0, y + 19, definition, "soft meaning", { "data-row": i }) +
    text(0, y + 19, `${counted.join("   ·   ")} ${wholeOf(rate)}`, "counts", { "data-row": i })
  );
}

function ratesText(c, { name, heading }) {
  const [a, b] = c.sides.map((s) => percent(s.stats.rates[name]?.[0] ?? NaN));
  return `${heading} A ${a}, B ${b}`;
}
