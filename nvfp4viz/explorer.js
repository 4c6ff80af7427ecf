// The explorer's page: draws the statistics that Python computed, and computes none itself.
//
// render({model, el}) is what anywidget calls. mount(el, state, answer) draws the same in a page without Python: `state` holds the
// traits (catalog, summary, statistics, tensor, recipe_a, ...) and what is not in it cannot be had.
// What is missing is asked for with a message {want, id}; the answer {kind, id} is kept, and everything is drawn anew.

const SIDES = ["a", "b"];
const SHOWN = ["tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block"];
const TOLD = ["catalog", "summary", "statistics", "progress", "live"];
const VIEWS = { overview: "Overview", scales: "Block scales", clipping: "Clipping", error: "Error", tensors: "All tensors", microscope: "Microscope" };
const DIALS = [ // caption, setting, [value, label]...; those marked 4 say nothing under standard
  ["kind", "four_over_six", [false, "standard"], [true, "4over6"]],
  ["ceiling", "e4m3_max", [448, "448"], [256, "256"]],
  ["error mode", "err_mode", ["MAE", "MAE"], ["MSE", "MSE"]],
  ["scored", "err_use_fast_math", [false, "exact"], [true, "fp16"]],
  ["FP32 scale per", "per_token", [true, "token"], [false, "tensor"]],
  ["arithmetic", "fast_math", [false, "strict"], [true, "fast"]],
];
const ONLY_4OVER6 = ["err_mode", "err_use_fast_math"];
const PATIENCE_MS = 120; // an answer that comes sooner is drawn at once; a picture that says "computing" would only delay it
// Jupyter's server leaves Nagle's algorithm on: after "busy" it holds an answer back until the browser acknowledges, up to 40 ms
// later. Whatever the browser sends meanwhile carries the acknowledgement.
const NUDGES_MS = [8, 20, 40];
const NO_ANSWER_MS = 4000, NO_KERNEL = "No kernel answers: this needs a running one, and the activations.";

// text and numbers
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const esc = (text) => String(text).replace(/[&<>"']/g, (c) => ESCAPES[c]).replace(/[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const num = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : v === "nan" ? NaN : v);
const minus = (text) => text.replace("-", "−");
const INTEGER = new Intl.NumberFormat("en-US"); // kept: toLocaleString makes one each time
const int = (v) => INTEGER.format(v);
const fixed = (v, n = 2) => (Number.isFinite(num(v)) ? minus(num(v).toFixed(n).replace(/^-(0\.?0*)$/, "$1")) : num(v) > 0 ? "∞" : "–");
const signed = (v, n = 2) => (v > 0 ? "+" : "") + fixed(v, n);
const percent = (v) => (v === 0 ? "0" : v >= 0.0995 ? (100 * v).toFixed(1) : v >= 0.00095 ? (100 * v).toFixed(2) : (100 * v).toPrecision(1)) + " %";
const hex = (byte) => "0x" + byte.toString(16).toUpperCase().padStart(2, "0");
function short(v, digits = 4) {
  v = num(v);
  if (!Number.isFinite(v)) return fixed(v);
  if (v === 0) return "0";
  const [mantissa, power] = v.toExponential(digits - 1).split("e").map(Number);
  if (power >= -3 && power <= 5) return minus(String(Number(v.toPrecision(digits))));
  return `${minus(String(mantissa))}×10${[...String(power)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
}
const words = (name) => name.replaceAll("_", " ");

// SVG
const attributes = (at) => Object.entries(at).map(([k, v]) => ` ${k}="${esc(typeof v === "number" && !k.startsWith("data-") ? +v.toFixed(2) : v)}"`).join("");
const tag = (name, at, inner = "") => `<${name}${attributes(at)}>${inner}</${name}>`;
const line = (x1, y1, x2, y2, cls, at = {}) => tag("line", { x1, y1, x2, y2, class: cls, ...at });
const text = (x, y, string, cls = "", at = {}) => tag("text", { x, y, class: cls, ...at }, esc(string));
const rect = (x, y, width, height, cls, at = {}) => tag("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), class: cls, ...at });
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

function ticks(low, high, wanted) { // round numbers between low and high
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
}

// [first, counts...] back to index -> count
const counts = (trimmed) => new Map(trimmed.slice(1).map((n, i) => [trimmed[0] + i, n]));

// A against B on an axis of block scales, the codes of E4M3. A above, B below; solid chose 6, hollow chose 4.
function drawScales(c, W, H) {
  const { catalog, sides, scale, span } = c;
  const left = 52, right = 14, top = 42, band = 22, mid = H / 2, reach = mid - band / 2 - top;
  const rows = sides.map((s) => ({ ...s, six: counts(s.stats.six), four: counts(s.stats.four) }));
  const used = [...new Set(rows.flatMap((r) => [...r.six, ...r.four].filter(([, n]) => n).map(([byte]) => byte)))].sort((p, q) => p - q);
  const value = catalog.e4m3, log = (v) => Math.log2(v);
  const lowest = used.find((b) => b > 0) || 1;
  const low = span === "full" ? log(value[1]) - 0.5 : Math.floor(log(value[lowest]) - 0.1), high = log(value[126]) + 0.12;
  const zero = span === "full" || used[0] === 0 ? 22 : 0; // a slot of its own for the scale 0, off the logarithmic axis
  const X = (v) => left + zero + ((log(v) - low) / (high - low)) * (W - left - right - zero);
  const edges = value.map((v, b) => b && [X(Math.sqrt(v * value[Math.max(b - 1, 1)])), X(Math.sqrt(v * value[Math.min(b + 1, 126)]))]);
  edges[0] = [left + 3, left + zero - 7];
  edges[1][0] = 2 * X(value[1]) - edges[1][1];
  edges[126][1] = 2 * X(448) - edges[126][0];
  const most = Math.max(1, ...rows.flatMap((r) => [...r.six.values(), ...r.four.values()]));
  const marks = scale === "log" ? [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].filter((v) => v <= most * 1.3) : ticks(0, most, 3).filter((v) => v % 1 === 0);
  const Y = scale === "log" ? (n) => (n ? (reach * Math.log10(n * 2)) / Math.log10(most * 2.2) : 0) : (n) => (reach * n) / (most * 1.04);
  let out = "";
  if (X(value[8]) > left + zero) {
    const from = Math.max(left + zero, edges[1][0]), to = edges[8][0];
    out += rect(from, top - 14, to - from, 2 * (mid - top + 14), "shade") + text((from + to) / 2, top - 1, to - from > 70 ? "subnormal" : "", "soft mid");
  } else out += text(left, top - 28, `← subnormal below 2⁻⁶: A ${int(rows[0].stats.rates.scale_subnormal[1])}, B ${int(rows[1].stats.rates.scale_subnormal[1])} blocks`, "soft");
  for (const [i, r] of rows.entries()) {
    const sign = i ? 1 : -1, base = mid + (sign * band) / 2;
    for (const v of marks) {
      const y = base + sign * Y(v);
      out += (v ? line(left, y, W - right, y, "grid") : "") + text(left - 7, y + 3.5, v >= 1e4 ? short(v / 1e3) + "k" : int(v), "soft end");
    }
    const far = base + sign * reach, ceiling = r.entry.settings.e4m3_max, x = X(ceiling), limit = X(catalog.four_limit), outer = far + sign * 18;
    const end = x > limit ? outer : far, anchor = x > left + 150 ? "end" : ""; // what is to the right is named further out
    if (x > left) out += line(x, base, x, end, `ceiling ${r.side}`, { "data-side": r.side, "data-ceiling": ceiling }) +
        tag("path", { d: `M${x.toFixed(1)},${(end + sign * 4).toFixed(1)}l4,${sign * 8}h-8z`, class: `six ${r.side}` }) +
        text(x + (anchor ? -8 : 8), end + 4 + sign * 8, `ceiling ${short(ceiling)}`, `${r.side}-ink ${anchor}`);
    if (r.entry.settings.four_over_six) {
      const stop = x > limit ? far : outer, named = !i || !rows[0].entry.settings.four_over_six;
      out += line(limit, base, limit, stop + sign * 12, "limit") + (named ? text(limit - 5, stop + 4 + sign * 8, `above ${fixed(catalog.four_limit)} a 4 saturates`, "soft end") : "");
    }
    out += line(left, base, W - right, base, "axis");
    for (const byte of used) {
      const six = r.six.get(byte) || 0, four = r.four.get(byte) || 0;
      if (!six && !four) continue;
      const [x0, x1] = edges[byte], w = Math.max(1.2, x1 - x0 - 1), at = (n) => (sign < 0 ? base - Y(n) : base);
      const inset = four ? w * 0.17 : 0;
      out += tag("g", { "data-side": r.side, "data-byte": byte, "data-value": value[byte], "data-six": six, "data-four": four },
        (four ? rect(x0 + 0.5, at(four), w, Y(four), `four ${r.side}`) : "") + (six ? rect(x0 + 0.5 + inset, at(six), w - 2 * inset, Y(six), `six ${r.side}`) : ""));
    }
    out += text(left - 44, mid + sign * (reach / 2 + band / 2) + 5, r.side.toUpperCase(), `letter ${r.side}-ink`);
  }
  for (let p = -9; p <= 8; p++) {
    const x = X(2 ** p), dense = (W - left) / (high - low) > 38;
    if (x > left + zero - 1 && (dense || p % 2)) out += text(x, mid + 4, p < -3 ? `2${"⁻"}${"⁰¹²³⁴⁵⁶⁷⁸⁹"[-p]}` : p < 0 ? short(2 ** p, 3) : String(2 ** p), "soft mid");
  }
  if (zero) out += text(left + zero / 2 - 2, mid + 4, "0", "soft mid");
  out += `<g class="cursor"></g>`;
  const label = `Block scales of ${c.tensor}: ` + rows.map((r) => `${r.side.toUpperCase()} ${r.name}, ${int(r.stats.rates.four_rate[1])} of ${int(r.stats.rates.four_rate[2])} blocks chose 4`).join("; ");
  const point = (byte) => {
    const [x0, x1] = edges[byte], x = (x0 + x1) / 2, flip = x > W - 220;
    const lines = [`${short(value[byte], 5)}  ·  byte ${hex(byte)}`, ...rows.map((r) => `${r.side.toUpperCase()}  ${int(r.six.get(byte) || 0)} to 6` + (r.entry.settings.four_over_six ? `, ${int(r.four.get(byte) || 0)} to 4` : ""))];
    const w = 12 + 6.4 * Math.max(...lines.map((l) => l.length)), bx = flip ? x - w - 8 : x + 8, by = top - 6;
    return { said: lines.join("; "), svg: line(x, top - 8, x, H - top + 8, "hair") + tag("g", { class: "tip" }, rect(bx, by, w, 54, "", { rx: 3 }) + lines.map((l, i) => text(bx + 7, by + 15 + i * 16, l, i ? `${SIDES[i - 1]}-ink` : "strong")).join("")) };
  };
  const near = (x) => used.reduce((best, b) => (Math.abs((edges[b][0] + edges[b][1]) / 2 - x) < Math.abs((edges[best][0] + edges[best][1]) / 2 - x) ? b : best), used[0]);
  return { out, label, stops: used, point, at: (x) => near(x) };
}

// Rates on a logarithmic axis, A and B joined; the definition below gives way to the counts under the pointer.
function drawClipping(c, W) {
  const rates = Object.entries(c.catalog.rates), row = 37, top = 24, H = top + rates.length * row;
  const x0 = 126, x1 = W - 136, floor = -5, X = (v) => (v <= 0 ? x0 : x0 + 14 + (clamp((Math.log10(v) - floor) / -floor, 0, 1)) * (x1 - x0 - 14));
  let out = "";
  const marks = [[0, "0"], [1e-4, "0.01 %"], [1e-3, "0.1"], [1e-2, "1 %"], [1e-1, "10"], [1, "100 %"]];
  for (const [v, label] of marks) if (W > 560 || v === 0 || v === 1e-2 || v === 1) out += text(X(v), 10, label, "soft mid");
  SIDES.forEach((side, i) => (out += text(W - 62 + i * 60, 10, side.toUpperCase(), `end strong ${side}-ink`)));
  rates.forEach(([name, meaning], i) => {
    const y = top + i * row + 10, values = c.sides.map((s) => s.stats.rates[name]);
    for (const [v] of marks) out += line(X(v), y - 6, X(v), y + 6, "grid");
    out += text(0, y + 4, words(name), "label") + line(X(values[0][0]), y, X(values[1][0]), y, "join");
    c.sides.forEach((s, k) => {
      const [rate, count, of] = values[k];
      out += tag("g", { "data-side": s.side, "data-rate": name, "data-value": rate, "data-count": count, "data-of": of },
        dot(X(rate), y, s.side, 4) + text(W - 62 + k * 60, y + 4, percent(rate), `end ${rate ? s.side + "-ink" : "soft"}`));
    });
    out += text(0, y + 19, meaning, "soft meaning", { "data-row": i });
    out += text(0, y + 19, c.sides.map((s, k) => `${s.side.toUpperCase()} ${int(values[k][1])} of ${int(values[k][2])}`).join("   ·   ") + (name.startsWith("element_cl") ? " elements" : name.startsWith("element") ? " non-zero elements" : " non-zero blocks"), "counts", { "data-row": i });
  });
  out += `<g class="cursor"></g>`;
  const point = (i) => ({ said: rates[i][0], row: i, svg: "" });
  const label = `Clipping rates of ${c.tensor}: ` + rates.map(([n]) => `${words(n)} A ${percent(c.sides[0].stats.rates[n][0])}, B ${percent(c.sides[1].stats.rates[n][0])}`).join("; ");
  return { out, H, label, stops: rates.map((_, i) => i), point, at: (_, y) => clamp(Math.floor((y - top) / row), 0, rates.length - 1) };
}

const dot = (x, y, side, r) => (side === "a" ? tag("circle", { cx: x, cy: y, r: r * 1.2, class: "dot a" }) : tag("rect", { x: x - r * 0.85, y: y - r * 0.85, width: r * 1.7, height: r * 1.7, class: "dot b", transform: `rotate(45 ${x.toFixed(2)} ${y.toFixed(2)})` }));

// Error: numbers, then how tokens (and blocks) spread round them. Attribution is drawn where the statistics have it.
function drawError(c, W, H, whole) {
  const names = { sqnr_db: "SQNR, dB", nmse: "NMSE", mse: "MSE", mae: "MAE", max_error: "max |error|", cosine: "cosine" };
  let out = "", y = 10;
  const columns = [Math.min(W * 0.52, 250), Math.min(W * 0.76, 370), Math.min(W, 490)];
  ["A", "B", "B against A"].forEach((t, i) => (out += text(columns[i], y, t, `end strong ${i < 2 ? SIDES[i] + "-ink" : ""}`)));
  for (const [name, label] of Object.entries(names)) {
    y += 19;
    const values = c.sides.map((s) => num(s.stats[name]));
    out += text(0, y, label, "label");
    c.sides.forEach((s, i) => (out += text(columns[i], y, name === "sqnr_db" ? fixed(values[i], 3) : short(values[i], name === "cosine" ? 6 : 4), "end", { "data-side": s.side, "data-number": name, "data-value": s.stats[name] })));
    const [p, q] = values, change = name === "sqnr_db" ? `${signed(q - p, 3)} dB` : name === "cosine" ? "" : p === q ? "same" : !p ? "" : Math.abs(q / p - 1) < 5e-5 ? "< 0.01 %" : `${signed((100 * (q - p)) / p, 2)} %`;
    out += text(columns[2], y, change, "end soft");
  }
  const shares = c.sides.map((s) => s.stats.attribution || c.parts?.[s.name]);
  if (whole && shares.every(Boolean)) out += drawParts(c, shares, W >= 800 ? columns[2] + 50 : 0, W, W >= 800 ? 10 : y + 30);
  if (whole && W < 800 && shares.every(Boolean)) y += 40 + 19 * Object.keys(shares[0]).length;
  y += 30;
  const kinds = whole ? [["token_nmse", "tokens"], ["block_nmse", "blocks"]] : [["token_nmse", "tokens"]];
  const each = whole ? 150 : H - y, stops = [];
  for (const [field, what] of kinds) {
    const part = spread(c, W, y, each - 36, field, what);
    out += part.out;
    stops.push(...part.stops);
    y += each;
  }
  out += `<g class="cursor"></g>`;
  const label = `Error on ${c.tensor}: ` + c.sides.map((s) => `${s.side.toUpperCase()} ${fixed(s.stats.sqnr_db)} dB`).join(", ");
  const point = (i) => stops[i] && stops[i].tip();
  return { out, H: whole ? y : H, label, stops: stops.map((_, i) => i), point, at: (x, py) => stops.reduce((b, s, i) => (Math.hypot(s.x - x, 9 * (py > s.low ? 1 : py < s.high ? 1 : 0) * 99) < Math.hypot(stops[b].x - x, 9 * (py > stops[b].low || py < stops[b].high ? 1 : 0) * 99) ? i : b), 0) };
}

// The error's parts as shares of it; a negative one helps.
function drawParts(c, shares, x, W, y) {
  const names = Object.keys(shares[0]), low = Math.min(0, ...shares.flatMap(Object.values)), high = Math.max(...shares.flatMap(Object.values), 1e-9);
  const from = x + 120, to = W - 124, X = (v) => from + ((v - low) / (high - low)) * (to - from);
  let out = text(x, y, "Where it comes from", "strong") + SIDES.map((side, i) => text(W - 62 + 60 * i, y, side.toUpperCase(), `end strong ${side}-ink`)).join("");
  names.forEach((name, k) => {
    const at = y + 19 * (k + 1);
    out += text(x, at, name, "label");
    shares.forEach((share, i) => (out += rect(Math.min(X(0), X(share[name])), at - 9 + 6 * i, Math.abs(X(share[name]) - X(0)), 5, `bar ${SIDES[i]}`) +
      text(W - 62 + 60 * i, at, Math.abs(share[name]) < 5e-5 ? (share[name] ? "≈ 0" : "0") : minus((100 * share[name]).toFixed(2)) + " %", "end", { "data-side": SIDES[i], "data-attribution": name, "data-value": share[name] })));
  });
  return out + line(X(0), y + 6, X(0), y + 19 * names.length + 5, "axis");
}

// A distribution of NMSE over tokens or blocks, in dB, as steps: A filled, B a line.
function spread(c, W, y, height, field, what) {
  const edges = c.catalog.nmse_db, base = y + height - 4, left = 0;
  const rows = c.sides.map((s) => ({ ...s, bins: counts(s.stats[field]) }));
  const bins = rows.flatMap((r) => [...r.bins].filter(([, n]) => n).map(([b]) => b));
  if (!bins.length) return { out: text(0, y + 14, `no ${what} with values`, "soft"), stops: [] };
  const first = Math.min(...bins), last = Math.max(...bins) + 1, least = edges[last] - 0.4, best = edges[first] + 0.4;
  const X = (db) => left + 4 + ((db - least) / (best - least)) * (W - 16 - left), most = Math.max(...rows.flatMap((r) => [...r.bins.values()])), Y = (n) => base - (n / most) * (height - 18);
  let out = text(0, y - 2, `SQNR of ${what}, dB`, "label") + text(W - 8, y - 2, `tallest ${int(most)}; dashed: the tensor`, "soft end");
  for (const db of ticks(least, best, 8)) out += line(X(db), base, X(db), base + 4, "axis") + text(X(db), base + 16, minus(String(db)), "soft mid");
  out += line(left, base, W - 8, base, "axis");
  for (const r of rows) {
    let path = `M${X(edges[last]).toFixed(1)},${base}`;
    for (let b = last - 1; b >= first; b--) path += `V${Y(r.bins.get(b) || 0).toFixed(1)}H${X(edges[b]).toFixed(1)}`;
    out += tag("path", { d: path + `V${base}`, class: `steps ${r.side}`, "data-side": r.side, "data-field": field, "data-counts": JSON.stringify(r.stats[field]) });
    const x = X(num(r.stats.sqnr_db));
    if (x >= left && x <= W) out += line(x, base, x, y + 8, `mean ${r.side}`);
  }
  const stops = [];
  for (let b = last - 1; b >= first; b--) {
    const x = (X(edges[b]) + X(edges[b + 1])) / 2, said = `${fixed(edges[b + 1], 1)} to ${fixed(edges[b], 1)} dB:  ` + rows.map((r) => `${r.side.toUpperCase()} ${int(r.bins.get(b) || 0)}`).join(",  ") + ` ${what}`, w = 12 + said.length * 6;
    const bx = clamp(x - w / 2, 0, W - w);
    stops.push({ x, low: base + 20, high: y - 8, tip: () => ({ said, svg: line(x, y + 8, x, base, "hair") + tag("g", { class: "tip" }, rect(bx, y - 16, w, 20, "", { rx: 3 }) + text(bx + 7, y - 2, said)) }) });
  }
  return { out, stops };
}

// All tensors, one column each: a lane for each number. Clicking goes there.
const LANES = { sqnr_db: ["SQNR, dB", 1], gain: ["B − A, dB", 1], four_rate: ["chose 4, %", 100], four_saturated: ["4 saturated, %", 100], scale_subnormal: ["scale subnormal, %", 100], element_clipped: ["element clipped, %", 100], element_flushed: ["element flushed, %", 100] };
function drawTensors(c, W, lanes, height, previous) {
  const left = 128, right = 12, names = c.order, n = names.length, step = (W - left - right) / n, X = (i) => left + (i + 0.5) * step, gap = 18;
  const H = lanes.length * (height + gap) + 20, here = names.indexOf(c.tensor);
  const frame = { left: X(here) - Math.max(step, 5) / 2, width: Math.max(step, 5), height: H - 18 };
  const key = [W, lanes, c.sort, ...c.sides.map((s) => s.name), c.version].join();
  const label = `All ${n} tensors: SQNR under A and B; shown is ${c.tensor}. Arrow keys go to the next.`;
  if (key === previous?.key) return { ...previous, frame, label }; // no more than another tensor was chosen
  let out = "";
  lanes.forEach((lane, k) => {
    const [title, unit] = LANES[lane], y0 = k * (height + gap) + 6, column = c.catalog.summary_columns.indexOf(lane);
    const value = (name, side) => {
      const at = (s) => num(c.summaryOf(name, s.name)?.[lane === "gain" ? 0 : column]);
      return lane === "gain" ? at(c.sides[1]) - at(c.sides[0]) : unit * at(side);
    };
    const all = names.flatMap((name) => (lane === "gain" ? [value(name)] : c.sides.map((s) => value(name, s)))).filter(Number.isFinite);
    let low = Math.min(...all), high = Math.max(...all);
    if (lane !== "sqnr_db") [low, high] = [Math.min(0, low), Math.max(0, high)];
    const nothing = all.length && low === 0 && high === 0;
    if (!(high > low)) [low, high] = lane === "sqnr_db" && all.length ? [low - 0.5, high + 0.5] : [0, 1];
    const Y = (v) => y0 + height - ((v - low) / (high - low)) * height, r = clamp(step / 4, 1.2, 3.6);
    out += text(0, y0 + height / 2 + 4, title, "label");
    const digits = high - low >= 20 ? 0 : high - low >= 2 ? 1 : high - low >= 0.2 ? 2 : 3;
    if (nothing) out += text(left + 4, y0 + height - 5, lane === "gain" ? "no difference" : "none", "soft");
    const labels = nothing ? [] : [high, low, 0].filter((v, i) => i < 2 || (low < 0 && high > 0 && Math.min(Y(0) - Y(high), Y(low) - Y(0)) > 11));
    for (const v of all.length ? labels : []) out += text(left - 7, Y(v) + 3.5, v === 0 ? "0" : lane === "gain" ? signed(v, digits) : fixed(v, digits), "soft end");
    out += lane === "gain" ? line(left, Y(0), W - right, Y(0), "axis") : line(left, y0 + height, W - right, y0 + height, "grid");
    if (!nothing) names.forEach((name, i) => {
      const [a, b] = c.sides.map((s) => value(name, s)), x = X(i);
      if (lane === "gain") {
        if (Number.isFinite(a)) out += rect(x - Math.max(step * 0.3, 0.6), Math.min(Y(0), Y(a)), Math.max(step * 0.6, 1.2), Math.abs(Y(a) - Y(0)), `bar ${a > 0 ? "b" : "a"}`, { "data-tensor": name, "data-gain": a });
        return;
      }
      if (Number.isFinite(a) && Number.isFinite(b)) out += line(x, Y(a), x, Y(b), "join");
      [a, b].forEach((v, j) => { if (Number.isFinite(v)) out += tag("g", { "data-tensor": name, "data-lane": lane, "data-side": SIDES[j], "data-value": v / unit }, dot(x, Y(v), SIDES[j], r)); });
    });
  });
  if (c.sort === "layer") { // number the layers below, as many as fit
    let at = -99;
    const named = (m) => (c.layerOf.get(m) ?? (step > 46 ? m : null)); // without a layer: by name, where there is room
    for (const [of, group] of groups(names, named)) {
      const x = (X(names.indexOf(group[0])) + X(names.indexOf(group.at(-1)))) / 2, room = Math.max(step * group.length, 30) / 6.4;
      const whole = of === null ? (group.length > 2 ? "others" : group[0].split(".").at(-1)) : String(of).split(".").at(-1);
      const label = typeof of === "string" && whole.length > room ? whole.slice(0, room - 1) + "…" : whole;
      const wide = 3.1 * label.length; // half its width
      if (x - wide > at + 5 && label.length < Math.max(room, 9)) { out += text(Math.min(x, W - wide), H - 4, label, "soft mid"); at = x + wide; }
    }
    if (names.some((m) => c.layerOf.get(m) !== null)) out += text(left - 7, H - 4, "layer", "soft end");
  } else out += text(left, H - 4, c.sort === "error" ? "ordered by A's SQNR, the worst first" : "ordered by B − A, B's greatest loss first", "soft");
  out += `<g class="cursor"></g>`;
  const point = (i) => {
    const s = c.sides.map((side) => c.summaryOf(names[i], side.name)?.[0]), said = names[i] + (s[0] !== undefined ? `   A ${fixed(s[0])} dB` : "") + (s[1] !== undefined ? `   B ${fixed(s[1])} dB` : "");
    const w = 14 + said.length * 6.2, bx = clamp(X(i) - w / 2, 0, W - w);
    return { said, svg: line(X(i), 0, X(i), H - 18, "hair") + tag("g", { class: "tip" }, rect(bx, H - 19, w, 19, "", { rx: 3 }) + text(bx + 7, H - 5, said)) };
  };
  return { key, frame, out, H, label, stops: names.map((_, i) => i), point, at: (x) => clamp(Math.floor((x - left) / step), 0, n - 1) };
}
const groups = (list, key) => list.reduce((m, v) => m.set(key(v), [...(m.get(key(v)) || []), v]), new Map());

// One block under A and under B: the 16 values between the grid of scale 6 above and of scale 4 below.
function drawBlock(c, W, look, chosen) {
  const left = 176, right = 128, each = 158, X0 = left, X1 = W - right;
  const found = c.sides.map((s) => look.inspections[s.name]);
  const reach = Math.max(...found.flatMap((f) => f.candidates.map((k) => 6 * num(k.step))), ...found[0].values.map(Math.abs)) || 1;
  const X = (v) => (X0 + X1) / 2 + (clamp(v / reach, -1.02, 1.02) * (X1 - X0 - 16)) / 2;
  let out = "";
  found.forEach((f, i) => {
    const side = SIDES[i], y0 = i * each + 14, middle = y0 + 58;
    out += text(0, middle - 5, side.toUpperCase(), `letter ${side}-ink`) + text(22, middle - 8, f.recipe, `strong ${side}-ink`, { "data-side": side, "data-choice": f.choice, "data-byte": f.byte });
    out += text(22, middle + 9, f.candidates.length > 1 ? `chose ${f.choice}` : "always 6", "");
    out += line(X0, middle, X1, middle, "grid");
    f.candidates.forEach((k, j) => {
      const y = j ? y0 + 108 : y0 + 8, wins = k.to === f.choice, cls = wins ? side : "lost";
      out += line(X(-6 * k.step), y, X(6 * k.step), y, `rail ${cls}`);
      c.catalog.e2m1.forEach((e, t) => { for (const sign of t ? [1, -1] : [1]) { const x = X(sign * e * k.step); out += line(x, y - 4, x, y + 4, `rail ${cls}`) + ([0, 1, 2, 3, 4, 6].includes(e) ? text(x, j ? y + 16 : y - 8, minus(String(sign * e)), `${wins ? "" : "soft"} mid`) : ""); } });
      f.values.forEach((v, t) => {
        const at = { "data-side": side, "data-to": k.to, "data-column": t, "data-decoded": k.decoded[t], "data-error": k.errors[t] };
        out += line(X(v), middle, X(num(k.decoded[t])), y, `fall ${cls} ${t === chosen ? "chosen" : ""}`, at);
      });
      out += text(22, j ? y + 4 : y + 4, `to ${k.to}:  ${hex(k.byte)} = ${short(k.block_scale)}`, wins ? "" : "soft") + (k.saturated ? text(22, j ? y + 18 : y + 18, `${short(k.h)} does not fit`, "warn") : text(22, y + 18, "", ""));
      out += text(W, y - 2, short(k.score, 4), `end ${wins ? "strong" : "soft"}`, { "data-side": side, "data-to": k.to, "data-score": k.score }) + text(W, y + 12, `${f.err_mode === "MAE" ? "sum |error|" : "sum error²"}${f.scored ? "" : ""}`, "end soft");
    });
    if (f.candidates.length > 1) {
      const [six, four] = f.candidates.map((k) => num(k.score)), more = Math.max(six, four), less = Math.min(six, four);
      out += text(W, middle + 4, six === four ? "a tie goes to 6" : `${f.choice} wins by ${percent((more - less) / more)}`, `end ${side}-ink strong`);
    }
    f.values.forEach((v, t) => (out += tag("circle", { cx: X(v), cy: middle, r: t === chosen ? 5 : 3.2, class: `value ${t === chosen ? "chosen" : ""}`, "data-column": t })));
  });
  const y = 2 * each + 22, cell = (W - 112) / 16, rows = [["value", (f, k, t) => f.values[t], ""], ...SIDES.flatMap((s) => [[`${s.toUpperCase()} decoded`, (f, k, t) => k.decoded[t], s], [`${s.toUpperCase()} error`, (f, k, t) => k.errors[t], s]])];
  out += rect(112 + chosen * cell, y - 16, cell, rows.length * 18 + 22, "here", { rx: 2 });
  for (let t = 0; t < 16; t++) out += text(112 + (t + 1) * cell - 4, y - 2, look.block * 16 + t, "soft end");
  out += text(0, y - 2, "column", "soft");
  const size = Math.floor(Math.log10(Math.max(...found[0].values.map(Math.abs)) || 1)); // errors with the values' decimals
  rows.forEach(([label, value, side], r) => {
    const f = found[side === "b" ? 1 : 0], k = f.candidates.find((q) => q.to === f.choice), row = f.values.map((_, t) => num(value(f, k, t)));
    const power = Math.floor(Math.log10(Math.max(...row.map(Math.abs)) || 1)), unit = power < -3 || power > 3 ? 10 ** power : 1;
    out += text(0, y + 17 + r * 18, label + (unit === 1 ? "" : ` ×${short(unit)}`.replace("1×", "")), side ? `${side}-ink` : "label");
    row.forEach((v, t) => (out += text(112 + (t + 1) * cell - 4, y + 17 + r * 18, v ? fixed(v / unit, clamp(unit === 1 ? 2 - size : 2, 0, 5)) : "0",
      `end small ${label.endsWith("error") ? "soft" : ""}`, { "data-row": label, "data-column": t, "data-value": value(f, k, t) })));
  });
  const H = y + rows.length * 18 + 10;
  const label = `Block of token ${look.token}, columns ${look.block * 16} to ${look.block * 16 + 15}: ` + found.map((f, i) => `${SIDES[i].toUpperCase()} chose ${f.choice}, byte ${hex(f.byte)}`).join("; ") + ". Left and right choose a value.";
  return { out, H, label, at: (x, py) => (py > y - 20 ? clamp(Math.floor((x - 112) / cell), 0, 15) : found[0].values.reduce((b, v, t) => (Math.abs(X(v) - x) < Math.abs(X(found[0].values[b]) - x) ? t : b), 0)) };
}

// What a page knows: statistics by tensor and recipe, blocks, what it waits for and what was refused.
class Knowledge {
  constructor(model, changed) {
    Object.assign(this, { model, changed, stats: new Map(), summary: new Map(), recipes: new Map(), answers: new Map(), waiting: new Map(), refused: new Map(), version: 0 });
    this.hear = (message) => this.answer(message);
    model.on("msg:custom", this.hear);
    this.read();
  }
  read() { // the traits
    const { model } = this;
    this.version++;
    this.absorb({ stats: model.get("statistics"), summary: model.get("summary"), recipes: model.get("catalog").recipes });
  }
  absorb({ stats = {}, summary = {}, recipes = [] }) {
    for (const r of recipes) this.recipes.set(r.name, r);
    const columns = this.model.get("catalog").summary_columns;
    const note = (key, short) => { if (!this.summary.has(key)) this.version++; this.summary.set(key, short); };
    for (const [tensor, row] of Object.entries(summary)) for (const [name, s] of Object.entries(row)) note(`${tensor}|${name}`, s);
    for (const [tensor, row] of Object.entries(stats)) for (const [name, s] of Object.entries(row)) {
      this.stats.set(`${tensor}|${name}`, s);
      note(`${tensor}|${name}`, columns.map((c) => (s.rates[c] ? s.rates[c][0] : s[c])));
    }
  }
  ask(id, message) { // once, until it is answered
    if (this.waiting.has(id) || this.refused.has(id) || this.answers.has(id)) return;
    const late = setTimeout(() => this.answer({ kind: "refused", id, text: NO_KERNEL }), NO_ANSWER_MS);
    this.waiting.set(id, late);
    this.model.send({ ...message, id });
    for (const ms of NUDGES_MS) setTimeout(() => { if (this.waiting.has(id)) this.model.send({ want: "nothing" }); }, ms);
  }
  answer(message) {
    const { kind, id = "" } = message;
    clearTimeout(this.waiting.get(id));
    if (kind === "working") return; // a kernel took it up, and may take its time
    this.waiting.delete(id);
    if (kind === "refused") { if (id) this.refused.set(id, message.text); }
    else {
      this.refused.delete(id);
      if (kind === "stats") this.absorb(message);
      else this.answers.set(id, message);
    }
    this.changed(message);
  }
  stop() {
    this.model.off("msg:custom", this.hear);
    for (const timer of this.waiting.values()) clearTimeout(timer);
  }
}

let instances = 0;

export function render({ model, el }) {
  const uid = `nv4-${++instances}-${Math.random().toString(36).slice(2, 8)}`;
  const get = (name) => model.get(name);
  const set = (values) => { for (const [k, v] of Object.entries(values)) model.set(k, v); model.save_changes(); };
  const root = document.createElement("div");
  root.className = "nv4";
  root.innerHTML = skeleton(uid, get("catalog"));
  for (const part of root.querySelectorAll("select, input, button, svg")) part.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrows
  el.append(root);
  const $ = (selector) => root.querySelector(selector), $$ = (selector) => [...root.querySelectorAll(selector)];
  const edit = { values: null, column: 0, of: "", asked: "" }; // the microscope's own: a changed value, and which is chosen
  const cursors = {}; // view -> where its cursor stands
  let notice = "", queued = false, drawn = 0, asked = "", turned = {};

  const know = new Knowledge(model, (message) => {
    if (message.kind === "refused") [notice, turned] = [message.text, {}];
    else if (message.id && notice === NO_KERNEL) notice = ""; // it was late, not absent
    if (message.id === "recipe") {
      if (message.kind === "stats") set({ [`recipe_${asked}`]: message.recipes[0].name });
      const next = Object.entries(turned);
      turned = {};
      for (const [side, change] of next) turn(side, change);
    }
    later();
  });
  const later = () => { if (!queued) { queued = true; queueMicrotask(() => { queued = false; draw(); }); } };

  // the dials
  const recipeOf = (side) => know.recipes.get(get(`recipe_${side}`));
  const same = (p, q) => Object.keys(p).every((k) => p[k] === q[k]);
  function turn(side, change) {
    notice = "";
    const old = recipeOf(side)?.settings;
    if (know.waiting.has("recipe")) turned[side] = { ...turned[side], ...change }; // one at a time
    if (know.waiting.has("recipe") || !old) return;
    const settings = { ...old, scored_as: null, ...change };
    if (!settings.four_over_six) Object.assign(settings, { err_mode: "MAE", err_use_fast_math: false });
    const known = [...know.recipes.values()].find((r) => same(r.settings, settings));
    if (known) set({ [`recipe_${side}`]: known.name });
    else { know.refused.delete("recipe"); know.answers.delete("recipe"); asked = side; know.ask("recipe", { want: "recipe", tensor: get("tensor"), settings }); }
  }
  function syncDials() {
    for (const side of SIDES) {
      const entry = recipeOf(side);
      if (!entry) continue;
      root.style.setProperty(`--${side}`, entry.color);
      $(`.name.${side}`).textContent = entry.name;
      for (const input of $$(`input[data-dial="${side}"]`)) {
        const value = entry.settings[input.dataset.setting];
        input.checked = String(value) === input.value;
        input.disabled = !entry.settings.four_over_six && ONLY_4OVER6.includes(input.dataset.setting);
      }
      const slider = $(`input[data-slider="${side}"]`), values = get("catalog").e4m3;
      if (document.activeElement !== slider || notice) slider.value = values.findLastIndex((v) => v <= entry.settings.e4m3_max);
      slider.setAttribute("aria-valuetext", short(entry.settings.e4m3_max));
      $(`output.${side}`).textContent = short(entry.settings.e4m3_max);
    }
  }
  root.addEventListener("input", (event) => {
    const at = event.target;
    if (at.dataset.slider) turn(at.dataset.slider, { e4m3_max: get("catalog").e4m3[at.value] });
    else if (at.matches(".value-slider")) changeValue(Number(at.value));
    else if (at.matches(".filter")) { listTensors(); }
  });
  root.addEventListener("change", (event) => {
    const at = event.target;
    if (at.matches("[type=range]")) return; // "input" came before, and what it was told stays
    notice = "";
    if (at.dataset.dial) {
      const old = recipeOf(at.dataset.dial)?.settings[at.dataset.setting];
      turn(at.dataset.dial, { [at.dataset.setting]: typeof old === "boolean" ? at.value === "true" : typeof old === "number" ? Number(at.value) : at.value });
    } else if (at.dataset.trait) set({ [at.dataset.trait]: at.value, ...(["tensor", "rule", "under"].includes(at.dataset.trait) ? { block: [] } : {}) });
    else if (at.matches(".at")) set({ block: [Number($(".at-token").value), Math.floor(Number($(".at-column").value) / 16)] });
  });
  root.addEventListener("click", (event) => {
    const at = event.target.closest("button");
    if (!at) return;
    if (at.dataset.view) set({ view: at.dataset.view });
    else if (at.dataset.step) step(Number(at.dataset.step));
    else if (at.matches(".reset")) { edit.values = null; later(); }
  });
  $(".tabs").addEventListener("keydown", (event) => {
    const names = Object.keys(VIEWS), by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    set({ view: names[(names.indexOf(get("view")) + by + names.length) % names.length] });
    later();
    queueMicrotask(() => $(`button[data-view="${get("view")}"]`).focus());
    event.preventDefault();
  });

  // tensors
  let context = null;
  let all = null; // what depends on all tensors, and not on which is shown
  function ofAll() {
    const tensors = get("catalog").tensors, [a, b] = SIDES.map((s) => get(`recipe_${s}`)), key = [know.version, a, b, get("sort")].join();
    if (all?.key === key) return all;
    const summaryOf = (t, r) => know.summary.get(`${t}|${r}`), db = (t, r) => num(summaryOf(t, r)?.[0]), gain = (t) => db(t, b) - db(t, a);
    const by = { error: (t) => db(t, a), gain }[get("sort")], names = tensors.map((t) => t.name), last = (v) => (Number.isNaN(v ?? NaN) ? Infinity : v);
    const order = by ? names.map((t) => [last(by(t)), t]).sort((p, q) => (p[0] === q[0] ? 0 : p[0] - q[0])).map(([, t]) => t) : names;
    const gains = names.map(gain).filter(Number.isFinite), lacking = [a, b].filter((r) => names.some((t) => !summaryOf(t, r)));
    all = { key, summaryOf, order, lacking, gains: gains.length, better: gains.filter((g) => g > 0).length, worse: gains.filter((g) => g < 0).length, layerOf: new Map(tensors.map((t) => [t.name, t.layer])) };
    return all;
  }
  let listed = "";
  function listTensors() {
    const here = get("tensor"), key = [$(".filter").value, get("sort"), get("recipe_a"), get("recipe_b"), know.version, $(".filter").value && here].join();
    if (key === listed) { $(".tensor").value = here; return; }
    listed = key;
    const wanted = $(".filter").value.toLowerCase().split(/\s+/), all = ofAll().order;
    const names = all.filter((t) => t === here || wanted.every((w) => t.toLowerCase().includes(w)));
    const skipped = new Map(get("catalog").tensors.map((t) => [t.name, t.skipped]));
    $(".tensor").innerHTML = names.map((t) => {
      const s = know.summary.get(`${t}|${get("recipe_a")}`);
      return `<option value="${esc(t)}">${esc(t)}${skipped.get(t) ? " (skipped)" : s ? ` · ${fixed(s[0], 1)} dB` : ""}</option>`;
    }).join("");
    $(".tensor").value = here;
    // a width of its own: a select without one measures all its options anew whenever another is chosen
    $(".tensor").style.width = `${clamp(Math.max(...all.map((t) => t.length)) + 12, 16, 52)}ch`;
    $(".matches").textContent = names.length < all.length ? `${names.length} of ${int(all.length)}` : `${int(all.length)} tensors`;
  }

  // the microscope
  const picksOf = () => know.answers.get(pickKey());
  const askPicks = () => know.ask(pickKey(), { want: "picks", tensor: get("tensor"), recipe: get(`recipe_${get("under")}`), rule: get("rule") });
  const pickKey = () => `picks|${get("tensor")}|${get(`recipe_${get("under")}`)}|${get("rule")}`;
  function blockHere() {
    if (get("block").length) return get("block");
    const first = picksOf()?.blocks[0];
    return first ? [first.token, first.block] : null;
  }
  function step(by) {
    const blocks = picksOf()?.blocks || [], at = blockHere();
    if (!blocks.length) return;
    const i = blocks.findIndex((p) => at && p.token === at[0] && p.block === at[1]);
    const next = blocks[(i + by + blocks.length) % blocks.length];
    set({ block: [next.token, next.block] });
  }
  function changeValue(v) {
    const look = context?.look;
    if (!look) return;
    edit.values = [...(edit.values || look.stored)];
    edit.values[edit.column] = v;
    later();
  }
  function lookCloser(c) {
    const picks = picksOf(), first = picks?.blocks[0], pinned = get("block").length > 0;
    if (!pinned && first) set({ block: [first.token, first.block] }); // it stays while dials turn
    if (!picks && pinned) restful("picks", askPicks);
    else if (!picks) askPicks();
    const at = blockHere();
    $(".picked").textContent = picks ? (picks.blocks.length ? `${1 + picks.blocks.findIndex((p) => at && p.token === at[0] && p.block === at[1]) || "–"} of ${picks.blocks.length}${picks.note ? ", " + picks.note : ""}` : picks.note) : "looking …";
    if (!at) return null;
    const [token, block] = at, names = c.sides.map((s) => s.name), base = `block|${c.tensor}|${token},${block}`;
    if (edit.of !== base) Object.assign(edit, { of: base, values: null });
    const id = `${base}|${names.join("|")}`, edited = edit.values && `${id}|${edit.values.join()}`;
    const kept = know.answers.get(id);
    if (!kept) know.ask(id, { want: "block", tensor: c.tensor, block: at, recipes: names });
    let found = kept;
    if (edited) {
      found = know.answers.get(edited) || context?.look;
      if (!know.answers.has(edited) && !know.waiting.has(edit.asked)) { // one at a time; the last value wins
        know.answers.delete(edit.asked);
        know.ask((edit.asked = edited), { want: "block", tensor: c.tensor, block: at, recipes: names, values: edit.values });
      }
    }
    if (!found || !names.every((n) => found.inspections[n])) return null;
    const slider = $(".value-slider"), reach = 1.25 * Math.max(...SIDES.map((s, i) => num(found.inspections[names[i]].amax)), 1e-30), stored = kept ? kept.stored : found.stored;
    if (document.activeElement !== slider) Object.assign(slider, { min: -reach, max: reach, step: reach / 500, value: (edit.values || stored)[edit.column] });
    $(".value-name").textContent = `value ${block * 16 + edit.column}`;
    $(".value-now").textContent = short((edit.values || stored)[edit.column]) + (edit.values ? `, stored ${short(stored[edit.column])}` : "");
    $(".reset").disabled = !edit.values;
    if (document.activeElement !== $(".at-token")) $(".at-token").value = token;
    if (document.activeElement !== $(".at-column")) $(".at-column").value = block * 16;
    $(".where").textContent = `token ${int(token)}${found.token_text ? ` “${found.token_text.trim()}”` : ""}, columns ${int(block * 16)}–${int(block * 16 + 15)}`;
    return { ...found, stored, token, block };
  }

  // drawing
  const pictures = {};
  function put(name, picture, W, H) {
    const svg = $(`svg.${name}`), h = picture.H || H;
    svg.setAttribute("aria-label", picture.label);
    // beside the svg, not in it: moving it would lay out every dot of hundreds of tensors anew
    for (const [k, v] of Object.entries(picture.frame || {})) svg.previousElementSibling.style[k] = `${v}px`;
    if (picture.key && picture.key === pictures[name]?.key) return;
    svg.setAttribute("viewBox", `0 0 ${W} ${h}`);
    svg.setAttribute("width", W);
    svg.setAttribute("height", h);
    svg.innerHTML = picture.out;
    pictures[name] = picture;
    if (cursors[name] !== undefined) point(name, cursors[name], false);
  }
  function point(name, stop, aloud) {
    const picture = pictures[name], svg = $(`svg.${name}`), cursor = svg.querySelector(".cursor");
    if (!picture?.point || !cursor) return;
    cursors[name] = stop;
    const found = stop === undefined ? null : picture.point(stop);
    cursor.innerHTML = found ? found.svg : "";
    for (const row of svg.querySelectorAll("[data-row]")) row.classList.toggle("on", found?.row !== undefined && row.dataset.row === String(found.row));
    if (aloud && found) $(".said").textContent = found.said;
  }
  for (const svg of $$("svg")) {
    const name = svg.classList[0], where = (event) => { const box = svg.getBoundingClientRect(); return [((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width, ((event.clientY - box.top) * svg.viewBox.baseVal.height) / box.height]; };
    svg.addEventListener("pointermove", (event) => { if (pictures[name]?.point) point(name, pictures[name].at(...where(event)), false); });
    svg.addEventListener("pointerleave", () => point(name, undefined, false));
    svg.addEventListener("blur", () => point(name, undefined, false));
    svg.addEventListener("click", (event) => {
      if (name === "strip" || name === "tensors") set({ tensor: context.order[pictures[name].at(...where(event))], block: [] });
      if (name === "microscope" && pictures.microscope) { edit.column = pictures.microscope.at(...where(event)); later(); }
    });
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], picture = pictures[name];
      if (event.key === "Escape") point(name, undefined, false);
      if ((!by && !["Home", "End"].includes(event.key)) || !picture) return;
      event.preventDefault();
      const move = (i, n) => (event.key === "Home" ? 0 : event.key === "End" ? n - 1 : clamp(i + by, 0, n - 1));
      if (name === "strip" || name === "tensors") set({ tensor: context.order[move(context.order.indexOf(get("tensor")), context.order.length)], block: [] });
      else if (name === "microscope") { edit.column = move(edit.column, 16); later(); }
      else if (picture.stops.length) point(name, picture.stops[move(picture.stops.indexOf(cursors[name]), picture.stops.length)], true);
    });
  }

  function verdict(sides) {
    const [a, b] = sides.map((s) => num(s.stats.sqnr_db)), d = b - a;
    const which = !(Math.abs(d) >= 0.0005) ? "A and B do equally well" : d > 0 ? `<b class="b-ink">B</b> is <b>${fixed(d, 3)} dB</b> better than <b class="a-ink">A</b>` : `<b class="b-ink">B</b> is <b>${fixed(-d, 3)} dB</b> worse than <b class="a-ink">A</b>`;
    return `${which} here: ${fixed(b)} against ${fixed(a)} dB` + (context.gains > 1 ? `<span class="soft"> · of ${int(context.gains)} tensors B wins ${int(context.better)}, A ${int(context.worse)}</span>` : "");
  }

  let since = null; // when the page began to wait for statistics
  function patient() {
    if (since === null) { since = performance.now(); setTimeout(() => since === null || later(), PATIENCE_MS); }
    return performance.now() - since < PATIENCE_MS - 1;
  }
  function draw() {
    const W = Math.floor(root.clientWidth), catalog = get("catalog"), tensor = get("tensor"), view = get("view");
    if (W < 50) return;
    syncDials();
    const sides = SIDES.map((side) => { const name = get(`recipe_${side}`); return { side, name, entry: know.recipes.get(name), stats: know.stats.get(`${tensor}|${name}`) }; });
    const skipped = catalog.tensors.find((t) => t.name === tensor)?.skipped, id = `stats|${tensor}|${sides.map((s) => s.name).join("|")}`;
    const lacking = sides.some((s) => !s.stats || !s.entry);
    if (lacking && !skipped) know.ask(id, { want: "stats", tensor, recipes: sides.map((s) => s.name) });
    const { done = 0, total = 0 } = get("progress");
    const busy = lacking && !know.refused.has(id) && !skipped;
    root.dataset.state = lacking ? (busy ? "waiting" : "without") : "ready";
    if (drawn && busy && patient()) return;
    if (!busy) since = null;
    root.classList.toggle("waits", busy);
    root.classList.toggle("without", lacking && !busy);
    $(".notice").textContent = skipped ? `${tensor} was skipped: ${skipped}` : lacking && know.refused.has(id) ? know.refused.get(id) : notice;
    $(".progress").textContent = done < total ? `analysed ${int(done)} of ${int(total)}` : busy ? "computing …" : "";
    for (const button of $$(".tabs button")) { const on = button.dataset.view === view; button.setAttribute("aria-selected", on); button.tabIndex = on ? 0 : -1; }
    for (const part of $$("[data-in]")) part.hidden = !part.dataset.in.split(" ").includes(view);
    for (const select of $$("select[data-trait]")) if (select.dataset.trait !== "tensor") select.value = get(select.dataset.trait);
    for (const radio of $$("input[data-trait]")) radio.checked = radio.value === get(radio.dataset.trait);
    listTensors();
    if (sides.some((s) => !s.entry)) return;
    context = { ...ofAll(), catalog, sides, tensor, look: context?.look, sort: get("sort"), scale: get("scale"), span: get("span"), version: know.version };
    if (view === "tensors") put("tensors", drawTensors(context, W, Object.keys(LANES), 56, pictures.tensors), W);
    else if (catalog.tensors.length > 1) put("strip", drawTensors(context, W, ["sqnr_db", "gain"], 40, pictures.strip), W);
    if (lacking) return;
    const half = W >= 740 ? Math.floor((W - 36) / 2) : W;
    if (view === "overview") {
      put("scales", drawScales(context, W, 324), W, 324);
      put("clipping", drawClipping(context, half), half);
      put("error", drawError(context, half, 290, false), half, 290);
    } else if (view === "scales") put("scales", drawScales(context, W, 460), W, 460);
    else if (view === "clipping") put("clipping", drawClipping(context, W), W);
    else if (view === "error") {
      const parts = `attribution|${tensor}|${sides.map((s) => s.name).join("|")}`;
      if (get("live") && !sides.every((s) => s.stats.attribution)) know.ask(parts, { want: "attribution", tensor, recipes: sides.map((s) => s.name) });
      context.parts = know.answers.get(parts)?.shares;
      put("error", drawError(context, W, 460, true), W, 460);
    }
    else if (view === "microscope") {
      const look = lookCloser(context);
      if (look) { context.look = look; put("microscope", drawBlock(context, Math.max(W, 860), look, edit.column), Math.max(W, 860)); root.dataset.block = [look.token, look.block]; }
    }
    $(".verdict").innerHTML = verdict(sides);
    const s = sides[0].stats, engines = [...new Set(sides.map((q) => q.stats.engine))].join(", ");
    $("footer").textContent = [`A ${sides[0].name}`, `B ${sides[1].name}`, `${int(s.tokens)} tokens × ${int(s.features)} features, ${int(s.blocks)} blocks`, `engine ${engines}`, ...["nvfp4viz", "torch"].filter((p) => catalog.versions[p]).map((p) => `${p} ${catalog.versions[p]}`)].join("  ·  ");
    const { lacking: recipes } = context;
    if (recipes.length && done >= total && get("live")) restful("sweep", () => { for (const recipe of recipes) know.ask(`sweep|${recipe}`, { want: "sweep", recipe }); });
    Object.assign(root.dataset, { tensor, a: sides[0].name, b: sides[1].name, view, drawn: ++drawn });
  }
  const rests = {};
  function restful(what, act) { // once the dials rest
    clearTimeout(rests[what]);
    rests[what] = setTimeout(act, 400);
  }

  const told = () => { know.read(); later(); };
  for (const name of SHOWN) model.on(`change:${name}`, later);
  for (const name of TOLD) model.on(`change:${name}`, told);
  const resized = new ResizeObserver(later);
  resized.observe(root);
  if (get("live")) model.send({ want: "hello" });
  draw();
  return () => {
    resized.disconnect();
    know.stop();
    for (const timer of Object.values(rests)) clearTimeout(timer);
    for (const name of SHOWN) model.off(`change:${name}`, later);
    for (const name of TOLD) model.off(`change:${name}`, told);
  };
}

// The same in a page without Python: `state` holds the traits, `answer` replies to {want, ...}, or gives null: cannot be had.
export function mount(el, state, answer = () => null) {
  const heard = new Map(), traits = { view: "overview", scale: "linear", span: "data", sort: "layer", rule: "gained", under: "b", block: [], summary: {}, statistics: {}, progress: {}, live: false, ...state };
  const tell = (event, value) => { for (const f of heard.get(event) || []) f(value); };
  const model = {
    get: (name) => traits[name],
    set: (name, value) => { if (traits[name] !== value) { traits[name] = value; tell(`change:${name}`, value); } },
    save_changes() {},
    on: (event, f) => heard.set(event, [...(heard.get(event) || []), f]),
    off: (event, f) => heard.set(event, (heard.get(event) || []).filter((g) => g !== f)),
    send: (message) => queueMicrotask(() => tell("msg:custom", { id: message.id, ...(answer(message) || { kind: "refused", text: "This page holds recorded results only: that needs a notebook, nvfp4viz.explore(activations)." }) })),
  };
  return { model, stop: render({ model, el }) };
}

const HERE = '<i class="here"></i>';
function skeleton(uid, catalog) {
  const radios = (name, label, options, at) => `<span role="radiogroup" aria-label="${esc(label)}" class="choice">${options.map(([value, shown]) => `<label><input type="radio" name="${uid}-${name}" value="${esc(value)}" ${at}><span>${esc(shown)}</span></label>`).join("")}</span>`;
  const options = (pairs) => pairs.map(([value, shown]) => `<option value="${esc(value)}">${esc(shown)}</option>`).join("");
  const low = catalog.e4m3.indexOf(1);
  const row = (side) => `<tr><th scope="row" class="${side}-ink">${side.toUpperCase()}</th>${DIALS.map(([caption, setting, ...values]) => `<td>${radios(`${side}-${setting}`, `${side.toUpperCase()}: ${caption}`, values, `data-dial="${side}" data-setting="${setting}"`)}${setting === "e4m3_max" ? `<input type="range" data-slider="${side}" min="${low}" max="126" aria-label="${side.toUpperCase()}: ceiling, any E4M3 value"><output class="${side}"></output>` : ""}</td>`).join("")}<td class="name ${side} ${side}-ink"></td></tr>`;
  const figure = (name, title, legend, extra = "") => `<figcaption><b>${title}</b> <span class="soft">${legend}</span>${extra}</figcaption>${name === "tensors" ? HERE : ""}<svg class="${name}" role="img" tabindex="0"></svg>`;
  return `<div class="top"><label>tensor <select class="tensor" data-trait="tensor"></select></label>
  <label>find <input class="filter" type="search" placeholder="part of a name" size="12"></label><span class="matches soft"></span>
  <label>order <select data-trait="sort">${options([["layer", "by layer"], ["error", "by error"], ["gain", "by B − A"]])}</select></label><span class="progress soft" role="status"></span></div>
<table class="dials"><thead><tr><td></td>${DIALS.map(([caption]) => `<th scope="col">${caption}</th>`).join("")}<th scope="col">recipe</th></tr></thead><tbody>${SIDES.map(row).join("")}</tbody></table>
<p class="notice" role="alert"></p><p class="verdict" aria-live="polite"></p>
<figure data-in="overview scales clipping error microscope">${HERE}<svg class="strip" role="img" tabindex="0"></svg></figure>
<div class="tabs" role="tablist" aria-label="view">${Object.entries(VIEWS).map(([v, shown]) => `<button role="tab" data-view="${v}">${shown}</button>`).join("")}</div>
<figure data-in="overview scales">${figure("scales", "Block scales", "blocks by their E4M3 scale; solid mapped their largest value to 6, hollow to 4",
    `<span class="aside">${radios("scale", "count axis", [["linear", "linear"], ["log", "log"]], 'data-trait="scale"')} ${radios("span", "scales shown", [["full", "all of E4M3"], ["data", "in use"]], 'data-trait="span"')}</span>`)}</figure>
<div class="pair"><figure data-in="overview clipping">${figure("clipping", "Clipping", "and its neighbours, as shares")}</figure>
<figure data-in="overview error">${figure("error", "Error", "of the decoded tensor")}</figure></div>
<figure data-in="tensors">${figure("tensors", "All tensors", "click one, or use the arrow keys")}</figure>
<figure data-in="microscope" class="wide"><figcaption><b>Microscope</b> <span class="where soft"></span></figcaption>
  <div class="bench"><label>blocks with <select data-trait="rule">${options(Object.entries(catalog.rules))}</select></label> under ${radios("under", "recipe that ranks", [["a", "A"], ["b", "B"]], 'data-trait="under"')}
  <button data-step="-1" aria-label="previous block">‹</button><span class="picked"></span><button data-step="1" aria-label="next block">›</button>
  <label>token <input class="at at-token" type="number" min="0"></label><label>column <input class="at at-column" type="number" min="0" step="16"></label></div>
  <svg class="microscope" role="img" tabindex="0"></svg>
  <div class="bench"><label><span class="value-name"></span> <input class="value-slider" type="range" step="any"></label><output class="value-now"></output><button class="reset">as stored</button></div></figure>
<div class="said" aria-live="polite"></div><footer></footer>`;
}

export default { render };
