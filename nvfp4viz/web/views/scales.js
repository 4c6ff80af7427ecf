// A against B on an axis of block scales, the codes of E4M3. A above, B below; solid chose 6, hollow chose 4.

import { markedName } from "../lib/recipe.js";
import { SIDES } from "../lib/sides.js";
import { CURSOR, apart, hundredth, line, rect, tag, text, tip } from "../lib/svg.js";
import { counts, fixed, hex, int, nearest, percent, short, ticks } from "../lib/text.js";

const SCALE_BOX = { left: 52, right: 14, top: 42, band: 22 }; // margins, and the band between A and B for the axis
const DECADES = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

export function drawScales(c, W, H) {
  const plot = scalePlot(c, W, H);
  const { rows, used, edges } = plot;
  const middleOf = (byte) => (edges[byte].from + edges[byte].to) / 2;
  return {
    out: tag("g", {}, subnormals(plot)) + rows.map((_, i) => scaleRow(plot, i)).join("") + scaleLabels(plot) + CURSOR,
    H,
    label: `Block scales of ${c.tensor}: ${rows.map(choicesOf).join("; ")}`,
    stops: used,
    point: (byte) => scaleTip(plot, byte, middleOf(byte)),
    at: (x) => nearest(used, (byte) => Math.abs(middleOf(byte) - x)),
  };
}

// Where everything goes.
function scalePlot(c, W, H) {
  const rows = c.sides.map((s) => ({ ...s, six: counts(s.stats.six), four: counts(s.stats.four) }));
  const used = usedBytes(rows);
  const middle = H / 2;
  const reach = middle - SCALE_BOX.band / 2 - SCALE_BOX.top;
  const x = scaleAxis(c, used, W);
  const y = countAxis(c.scale, rows, x.edges, reach);
  return { catalog: c.catalog, rows, used, W, H, middle, reach, ...x, ...y };
}

function usedBytes(rows) {
  const counted = rows.flatMap((r) => [...r.six, ...r.four]).filter(([, n]) => n);
  return [...new Set(counted.map(([byte]) => byte))].sort((p, q) => p - q);
}

// Scales go on a logarithmic axis; the scale 0 has a slot of its own to the left of it.
function scaleAxis({ catalog, span }, used, W) {
  const { left, right } = SCALE_BOX;
  const value = catalog.e4m3;
  const lowest = used.find((byte) => byte > 0) || 1;
  const low = span === "full" ? Math.log2(value[1]) - 0.5 : Math.floor(Math.log2(value[lowest]) - 0.1) - 0.12;
  const high = Math.log2(value[126]) + 0.12;
  const zero = span === "full" || used[0] === 0 ? 22 : 0;
  const start = left + zero;
  const X = (v) => start + ((Math.log2(v) - low) / (high - low)) * (W - left - right - zero);
  return { X, zero, start, octave: (W - left) / (high - low), edges: bars(value, X, start) };
}

// The values that each byte stands for: half way to its neighbours, where rounding changes
function cells(value) {
  const between = (byte) => (value[byte] + value[byte + 1]) / 2;
  const ends = value.map((v, byte) => [byte ? between(byte - 1) : 0, byte < 126 ? between(byte) : v]);
  ends[126][1] = 2 * value[126] - ends[126][0];
  return ends;
}

// Where each byte's bar stands, and how many octaves wide it is; the scale 0 has a slot that is no part of the axis.
function bars(value, X, start) {
  return cells(value).map(([low, high], byte) =>
    byte ? { from: X(low), to: X(high), octaves: Math.log2(high / low) } : { from: SCALE_BOX.left + 3, to: start - 7, octaves: 1 },
  );
}

// `marks` are the counts an octave that get a line, Y(n) is how far from the base n blocks an octave reach. Cells of
// E4M3 are unequal: a count a cell would have teeth at powers of 2 that are in the cells and not in the data.
function countAxis(scale, rows, edges, reach) {
  const perOctave = (counted) => [...counted].map(([byte, n]) => n / edges[byte].octaves);
  const most = Math.max(1, ...rows.flatMap((r) => [...perOctave(r.six), ...perOctave(r.four)]));
  if (scale === "log") {
    const whole = Math.log10(most * 2.2);
    return {
      marks: DECADES.filter((v) => v <= most * 1.3),
      Y: (n) => (n ? (reach * Math.log10(Math.max(n * 2, 1))) / whole : 0),
    };
  }
  return { marks: ticks(0, most, 3).filter(Number.isInteger), Y: (n) => (reach * n) / (most * 1.04) };
}

// A shade behind the subnormal scales; where they are off the axis, how many blocks have one.
function subnormals({ catalog, rows, X, start, edges, middle }) {
  const { left, top } = SCALE_BOX;
  if (X(catalog.e4m3[8]) <= start) {
    const [a, b] = rows.map((r) => r.stats.rates.scale_subnormal[1]);
    if (!a && !b) return "";
    return text(left, top - 28, `← subnormal below 2⁻⁶: A ${int(a)}, B ${int(b)} blocks`, "soft");
  }
  const from = Math.max(start, edges[1].from);
  const to = edges[8].from;
  return (
    rect(from, top - 14, to - from, 2 * (middle - top + 14), "shade") +
    text((from + to) / 2, top - 1, to - from > 70 ? "subnormal" : "", "soft mid")
  );
}

// One recipe's half: A's grows upwards (sign -1), B's downwards.
function scaleRow(plot, i) {
  const { rows, W, middle, reach } = plot;
  const { left, right, band } = SCALE_BOX;
  const row = rows[i];
  const sign = i ? 1 : -1;
  const base = middle + (sign * band) / 2;
  const far = base + sign * reach;
  const half = { row, sign, base, far, outer: far + sign * 18 };
  const namesLimit = !i || !rows[0].entry.settings.four_over_six; // once is enough
  return (
    countLines(plot, half) +
    ceilingMark(plot, half) +
    limitMark(plot, half, namesLimit) +
    line(left, base, W - right, base, "axis") +
    scaleBars(plot, half) +
    text(left - 52, middle + sign * (reach / 2 + band / 2) + 5, row.side.toUpperCase(), `letter ${row.side}-ink`)
  );
}

function countLines({ marks, Y, W }, { sign, base }) {
  const { left, right } = SCALE_BOX;
  const one = (v) => {
    const y = base + sign * Y(v);
    const shown = v >= 1e3 ? short(v / 1e3) + "k" : int(v);
    return (v ? line(left, y, W - right, y, "grid") : "") + text(left - 7, y + 3.5, shown, "soft end");
  };
  return tag("g", {}, marks.map(one).join(""));
}

// What is to the right is named further out: the ceiling, or the scale for 6 above which the one for 4 saturates.
const ceilingIsOuter = ({ X, catalog }, { row }) => X(row.entry.settings.e4m3_max) > X(catalog.four_limit);

function ceilingMark(plot, half) {
  const { sign, base, far, outer, row } = half;
  const { left } = SCALE_BOX;
  const ceiling = row.entry.settings.e4m3_max;
  const x = plot.X(ceiling);
  if (x <= left) return "";
  const end = ceilingIsOuter(plot, half) ? outer : far;
  const anchor = x > left + 150 ? "end" : "";
  const arrow = `M${x.toFixed(1)},${(end + sign * 4).toFixed(1)}l4,${sign * 8}h-8z`;
  return (
    line(x, base, x, end, `ceiling ${row.side}`, { "data-side": row.side, "data-ceiling": ceiling }) +
    tag("path", { d: arrow, class: `six ${row.side}` }) +
    text(x + (anchor ? -8 : 8), end + 4 + sign * 8, `ceiling ${short(ceiling)}`, `${row.side}-ink ${anchor}`)
  );
}

const LETTER = 6.5; // px, more than a letter of these labels takes

function limitMark(plot, half, named) {
  const { sign, base, far, outer, row } = half;
  if (!row.entry.settings.four_over_six) return "";
  const limit = plot.catalog.four_limit;
  const x = plot.X(limit);
  const stop = ceilingIsOuter(plot, half) ? far : outer;
  const mark = line(x, base, x, stop + sign * 12, "limit");
  if (!named) return mark;
  const [, saturated = 0] = row.stats.rates.four_saturated;
  const [, chosen] = row.stats.rates.four_saturated_chosen || [];
  const share = chosen === undefined || !saturated ? "" : percent(chosen / saturated);
  const all = `scale for 6 above ${fixed(limit)}: its 4 saturates${share && `, chosen all the same in ${share}`}`;
  const some = `above ${fixed(limit)} 4 saturates${share && `, chosen in ${share}`}`;
  const words = [all, some, "4 saturates"].find((w) => w.length * LETTER < x - 5) || "";
  return mark + text(x - 5, stop + 4 + sign * 8, words, "soft end");
}

// How many blocks have each scale: those that chose 4 behind those that chose 6. All bars of a kind are one path: one
// element each would be most of what a page has to lay out when another tensor is shown.
function scaleBars({ used, edges, Y }, { row, sign, base }) {
  const { side, six, four } = row;
  const place = (byte, inset) => {
    const { from, to } = edges[byte];
    const width = Math.max(1.2, to - from - 1);
    return [from + 0.5 + inset * width, width * (1 - 2 * inset)];
  };
  const bars = (counted, insetOf) =>
    used.filter((byte) => counted.get(byte)).map((byte) => {
      const [x, width] = place(byte, insetOf(byte));
      const height = sign * Y(counted.get(byte) / edges[byte].octaves);
      return `M${hundredth(x)},${hundredth(base)}h${hundredth(width)}v${hundredth(height)}h${hundredth(-width)}z`;
    });
  const counted = used.map((byte) => [byte, six.get(byte) || 0, four.get(byte) || 0]);
  const at = { "data-side": side, "data-scales": JSON.stringify(counted.filter(([, p, q]) => p || q)) };
  return (
    tag("path", { d: bars(four, () => 0).join(""), class: `four ${side}` }) +
    tag("path", { d: bars(six, (byte) => (four.get(byte) ? 0.17 : 0)).join(""), class: `six ${side}`, ...at })
  );
}

// Powers of 2 between A and B, every second one where there is little room
function scaleLabels({ X, start, zero, octave, middle }) {
  const labels = zero ? [[SCALE_BOX.left + zero / 2 - 2, "0"]] : [];
  for (let power = -9; power <= 8; power++) {
    const x = X(2 ** power);
    if (x > start - 1 && (octave > 38 || power % 2)) labels.push([x, powerOfTwo(power)]);
  }
  return apart(labels).map(([x, shown]) => text(x, middle + 4, shown, "soft mid")).join("");
}

function powerOfTwo(power) {
  if (power < -3) return `2⁻${"⁰¹²³⁴⁵⁶⁷⁸⁹"[-power]}`;
  return power < 0 ? short(2 ** power, 3) : String(2 ** power);
}

function choicesOf({ side, name, entry, stats }) {
  const [, four, blocks] = stats.rates.four_rate;
  return `${side.toUpperCase()} ${markedName(name, entry.settings)}, ${int(four)} of ${int(blocks)} blocks chose 4`;
}

function scaleTip({ catalog, rows, W, H }, byte, x) {
  const { top } = SCALE_BOX;
  const countsOf = ({ side, entry, six, four }) => {
    const toSix = `${side.toUpperCase()}  ${int(six.get(byte) || 0)} to 6`;
    return entry.settings.four_over_six ? `${toSix}, ${int(four.get(byte) || 0)} to 4` : toSix;
  };
  const lines = [`${short(catalog.e4m3[byte], 5)}  ·  byte ${hex(byte)}`, ...rows.map(countsOf)];
  const width = 12 + 6.4 * Math.max(...lines.map((l) => l.length));
  const left = x > W - 220 ? x - width - 8 : x + 8;
  const y = top - 6;
  const written = lines.map((l, i) => text(left + 7, y + 15 + i * 16, l, i ? `${SIDES[i - 1]}-ink` : "strong"));
  return {
    label: lines.join("; "),
    svg: line(x, top - 8, x, H - top + 8, "hair") + tip(left, y, width, 54, written.join("")),
  };
}
