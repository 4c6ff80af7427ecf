// Error: numbers, then how tokens (and blocks) spread round them. Attribution is drawn where the statistics have it.
function drawError(c, W, H, whole) {
  const names = {
    sqnr_db: "SQNR, dB",
    nmse: "NMSE",
    mse: "MSE",
    mae: "MAE",
    max_error: "max |error|",
    cosine: "cosine",
  };
  let out = "",
    y = 10;
  const columns = [Math.min(W * 0.52, 250), Math.min(W * 0.76, 370), Math.min(W, 490)];
  ["A", "B", "B against A"].forEach(
    (t, i) => (out += text(columns[i], y, t, `end strong ${i < 2 ? SIDES[i] + "-ink" : ""}`)),
  );
  for (const [name, label] of Object.entries(names)) {
    y += 19;
    const values = c.sides.map((s) => num(s.stats[name]));
    out += text(0, y, label, "label");
    c.sides.forEach(
      (s, i) =>
        (out += text(
          columns[i],
          y,
          name === "sqnr_db" ? fixed(values[i], 3) : short(values[i], name === "cosine" ? 6 : 4),
          "end",
          { "data-side": s.side, "data-number": name, "data-value": s.stats[name] },
        )),
    );
    const [p, q] = values,
      change =
        name === "sqnr_db"
          ? `${signed(q - p, 3)} dB`
          : name === "cosine"
            ? ""
            : p === q
              ? "same"
              : !p
                ? ""
                : Math.abs(q / p - 1) < 5e-5
                  ? "< 0.01 %"
                  : `${signed((100 * (q - p)) / p, 2)} %`;
    out += text(columns[2], y, change, "end soft");
  }
  const shares = c.sides.map((s) => s.stats.attribution || c.parts?.[s.name]);
  if (whole && shares.every(Boolean))
    out += drawParts(c, shares, W >= 800 ? columns[2] + 50 : 0, W, W >= 800 ? 10 : y + 30);
  if (whole && W < 800 && shares.every(Boolean)) y += 40 + 19 * Object.keys(shares[0]).length;
  y += 30;
  const kinds = whole
    ? [
        ["token_nmse", "tokens"],
        ["block_nmse", "blocks"],
      ]
    : [["token_nmse", "tokens"]];
  const each = whole ? 150 : H - y,
    stops = [];
  for (const [field, what] of kinds) {
    const part = spread(c, W, y, each - 36, field, what);
    out += part.out;
    stops.push(...part.stops);
    y += each;
  }
  out += `<g class="cursor"></g>`;
  const label =
    `Error on ${c.tensor}: ` + c.sides.map((s) => `${s.side.toUpperCase()} ${fixed(s.stats.sqnr_db)} dB`).join(", ");
  const point = (i) => stops[i] && stops[i].tip();
  return {
    out,
    H: whole ? y : H,
    label,
    stops: stops.map((_, i) => i),
    point,
    at: (x, py) =>
      stops.reduce(
        (b, s, i) =>
          Math.hypot(s.x - x, 9 * (py > s.low ? 1 : py < s.high ? 1 : 0) * 99) <
          Math.hypot(stops[b].x - x, 9 * (py > stops[b].low || py < stops[b].high ? 1 : 0) * 99)
            ? i
            : b,
        0,
      ),
  };
}

// The error's parts as shares of it; a negative one helps.
function drawParts(c, shares, x, W, y) {
  const names = Object.keys(shares[0]),
    low = Math.min(0, ...shares.flatMap(Object.values)),
    high = Math.max(...shares.flatMap(Object.values), 1e-9);
  const from = x + 120,
    to = W - 124,
    X = (v) => from + ((v - low) / (high - low)) * (to - from);
  let out =
    text(x, y, "Where it comes from", "strong") +
    SIDES.map((side, i) => text(W - 62 + 60 * i, y, side.toUpperCase(), `end strong ${side}-ink`)).join("");
  names.forEach((name, k) => {
    const at = y + 19 * (k + 1);
    out += text(x, at, name, "label");
    shares.forEach(
      (share, i) =>
        (out +=
          rect(Math.min(X(0), X(share[name])), at - 9 + 6 * i, Math.abs(X(share[name]) - X(0)), 5, `bar ${SIDES[i]}`) +
          text(
            W - 62 + 60 * i,
            at,
            Math.abs(share[name]) < 5e-5 ? (share[name] ? "≈ 0" : "0") : minus((100 * share[name]).toFixed(2)) + " %",
            "end",
            { "data-side": SIDES[i], "data-attribution": name, "data-value": share[name] },
          )),
    );
  });
  return out + line(X(0), y + 6, X(0), y + 19 * names.length + 5, "axis");
}

// A distribution of NMSE over tokens or blocks, in dB, as steps: A filled, B a line.
function spread(c, W, y, height, field, what) {
  const edges = c.catalog.nmse_db,
    base = y + height - 4,
    left = 0;
  const rows = c.sides.map((s) => ({ ...s, bins: counts(s.stats[field]) }));
  const bins = rows.flatMap((r) => [...r.bins].filter(([, n]) => n).map(([b]) => b));
  if (!bins.length) return { out: text(0, y + 14, `no ${what} with values`, "soft"), stops: [] };
  const first = Math.min(...bins),
    last = Math.max(...bins) + 1,
    least = edges[last] - 0.4,
    best = edges[first] + 0.4;
  const X = (db) => left + 4 + ((db - least) / (best - least)) * (W - 16 - left),
    most = Math.max(...rows.flatMap((r) => [...r.bins.values()])),
    Y = (n) => base - (n / most) * (height - 18);
  let out =
    text(0, y - 2, `SQNR of ${what}, dB`, "label") +
    text(W - 8, y - 2, `tallest ${int(most)}; dashed: the tensor`, "soft end");
  for (const db of ticks(least, best, 8))
    out += line(X(db), base, X(db), base + 4, "axis") + text(X(db), base + 16, minus(String(db)), "soft mid");
  out += line(left, base, W - 8, base, "axis");
  for (const r of rows) {
    let path = `M${X(edges[last]).toFixed(1)},${base}`;
    for (let b = last - 1; b >= first; b--) path += `V${Y(r.bins.get(b) || 0).toFixed(1)}H${X(edges[b]).toFixed(1)}`;
    out += tag("path", {
      d: path + `V${base}`,
      class: `steps ${r.side}`,
      "data-side": r.side,
      "data-field": field,
      "data-counts": JSON.stringify(r.stats[field]),
    });
    const x = X(num(r.stats.sqnr_db));
    if (x >= left && x <= W) out += line(x, base, x, y + 8, `mean ${r.side}`);
  }
  const stops = [];
  for (let b = last - 1; b >= first; b--) {
    const x = (X(edges[b]) + X(edges[b + 1])) / 2,
      said =
        `${fixed(edges[b + 1], 1)} to ${fixed(edges[b], 1)} dB:  ` +
        rows.map((r) => `${r.side.toUpperCase()} ${int(r.bins.get(b) || 0)}`).join(",  ") +
        ` ${what}`,
      w = 12 + said.length * 6;
    const bx = clamp(x - w / 2, 0, W - w);
    stops.push({
      x,
      low: base + 20,
      high: y - 8,
      tip: () => ({
        said,
        svg:
          line(x, y + 8, x, base, "hair") +
          tag("g", { class: "tip" }, rect(bx, y - 16, w, 20, "", { rx: 3 }) + text(bx + 7, y - 2, said)),
      }),
    });
  }
  return { out, stops };
}
