// A against B on an axis of block scales, the codes of E4M3. A above, B below; solid chose 6, hollow chose 4.
function drawScales(c, W, H) {
  const { catalog, sides, scale, span } = c;
  const left = 52,
    right = 14,
    top = 42,
    band = 22,
    mid = H / 2,
    reach = mid - band / 2 - top;
  const rows = sides.map((s) => ({ ...s, six: counts(s.stats.six), four: counts(s.stats.four) }));
  const used = [...new Set(rows.flatMap((r) => [...r.six, ...r.four].filter(([, n]) => n).map(([byte]) => byte)))].sort(
    (p, q) => p - q,
  );
  const value = catalog.e4m3,
    log = (v) => Math.log2(v);
  const lowest = used.find((b) => b > 0) || 1;
  const low = span === "full" ? log(value[1]) - 0.5 : Math.floor(log(value[lowest]) - 0.1),
    high = log(value[126]) + 0.12;
  const zero = span === "full" || used[0] === 0 ? 22 : 0; // a slot of its own for the scale 0, off the logarithmic axis
  const X = (v) => left + zero + ((log(v) - low) / (high - low)) * (W - left - right - zero);
  const edges = value.map(
    (v, b) => b && [X(Math.sqrt(v * value[Math.max(b - 1, 1)])), X(Math.sqrt(v * value[Math.min(b + 1, 126)]))],
  );
  edges[0] = [left + 3, left + zero - 7];
  edges[1][0] = 2 * X(value[1]) - edges[1][1];
  edges[126][1] = 2 * X(448) - edges[126][0];
  const most = Math.max(1, ...rows.flatMap((r) => [...r.six.values(), ...r.four.values()]));
  const marks =
    scale === "log"
      ? [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].filter((v) => v <= most * 1.3)
      : ticks(0, most, 3).filter((v) => v % 1 === 0);
  const Y =
    scale === "log"
      ? (n) => (n ? (reach * Math.log10(n * 2)) / Math.log10(most * 2.2) : 0)
      : (n) => (reach * n) / (most * 1.04);
  let out = "";
  if (X(value[8]) > left + zero) {
    const from = Math.max(left + zero, edges[1][0]),
      to = edges[8][0];
    out +=
      rect(from, top - 14, to - from, 2 * (mid - top + 14), "shade") +
      text((from + to) / 2, top - 1, to - from > 70 ? "subnormal" : "", "soft mid");
  } else
    out += text(
      left,
      top - 28,
      `← subnormal below 2⁻⁶: A ${int(rows[0].stats.rates.scale_subnormal[1])}, B ${int(rows[1].stats.rates.scale_subnormal[1])} blocks`,
      "soft",
    );
  for (const [i, r] of rows.entries()) {
    const sign = i ? 1 : -1,
      base = mid + (sign * band) / 2;
    for (const v of marks) {
      const y = base + sign * Y(v);
      out +=
        (v ? line(left, y, W - right, y, "grid") : "") +
        text(left - 7, y + 3.5, v >= 1e4 ? short(v / 1e3) + "k" : int(v), "soft end");
    }
    const far = base + sign * reach,
      ceiling = r.entry.settings.e4m3_max,
      x = X(ceiling),
      limit = X(catalog.four_limit),
      outer = far + sign * 18;
    const end = x > limit ? outer : far,
      anchor = x > left + 150 ? "end" : ""; // what is to the right is named further out
    if (x > left)
      out +=
        line(x, base, x, end, `ceiling ${r.side}`, { "data-side": r.side, "data-ceiling": ceiling }) +
        tag("path", {
          d: `M${x.toFixed(1)},${(end + sign * 4).toFixed(1)}l4,${sign * 8}h-8z`,
          class: `six ${r.side}`,
        }) +
        text(x + (anchor ? -8 : 8), end + 4 + sign * 8, `ceiling ${short(ceiling)}`, `${r.side}-ink ${anchor}`);
    if (r.entry.settings.four_over_six) {
      const stop = x > limit ? far : outer,
        named = !i || !rows[0].entry.settings.four_over_six;
      out +=
        line(limit, base, limit, stop + sign * 12, "limit") +
        (named
          ? text(limit - 5, stop + 4 + sign * 8, `above ${fixed(catalog.four_limit)} a 4 saturates`, "soft end")
          : "");
    }
    out += line(left, base, W - right, base, "axis");
    for (const byte of used) {
      const six = r.six.get(byte) || 0,
        four = r.four.get(byte) || 0;
      if (!six && !four) continue;
      const [x0, x1] = edges[byte],
        w = Math.max(1.2, x1 - x0 - 1),
        at = (n) => (sign < 0 ? base - Y(n) : base);
      const inset = four ? w * 0.17 : 0;
      out += tag(
        "g",
        { "data-side": r.side, "data-byte": byte, "data-value": value[byte], "data-six": six, "data-four": four },
        (four ? rect(x0 + 0.5, at(four), w, Y(four), `four ${r.side}`) : "") +
          (six ? rect(x0 + 0.5 + inset, at(six), w - 2 * inset, Y(six), `six ${r.side}`) : ""),
      );
    }
    out += text(left - 44, mid + sign * (reach / 2 + band / 2) + 5, r.side.toUpperCase(), `letter ${r.side}-ink`);
  }
  for (let p = -9; p <= 8; p++) {
    const x = X(2 ** p),
      dense = (W - left) / (high - low) > 38;
    if (x > left + zero - 1 && (dense || p % 2))
      out += text(
        x,
        mid + 4,
        p < -3 ? `2${"⁻"}${"⁰¹²³⁴⁵⁶⁷⁸⁹"[-p]}` : p < 0 ? short(2 ** p, 3) : String(2 ** p),
        "soft mid",
      );
  }
  if (zero) out += text(left + zero / 2 - 2, mid + 4, "0", "soft mid");
  out += `<g class="cursor"></g>`;
  const label =
    `Block scales of ${c.tensor}: ` +
    rows
      .map(
        (r) =>
          `${r.side.toUpperCase()} ${r.name}, ${int(r.stats.rates.four_rate[1])} of ${int(r.stats.rates.four_rate[2])} blocks chose 4`,
      )
      .join("; ");
  const point = (byte) => {
    const [x0, x1] = edges[byte],
      x = (x0 + x1) / 2,
      flip = x > W - 220;
    const lines = [
      `${short(value[byte], 5)}  ·  byte ${hex(byte)}`,
      ...rows.map(
        (r) =>
          `${r.side.toUpperCase()}  ${int(r.six.get(byte) || 0)} to 6` +
          (r.entry.settings.four_over_six ? `, ${int(r.four.get(byte) || 0)} to 4` : ""),
      ),
    ];
    const w = 12 + 6.4 * Math.max(...lines.map((l) => l.length)),
      bx = flip ? x - w - 8 : x + 8,
      by = top - 6;
    return {
      said: lines.join("; "),
      svg:
        line(x, top - 8, x, H - top + 8, "hair") +
        tag(
          "g",
          { class: "tip" },
          rect(bx, by, w, 54, "", { rx: 3 }) +
            lines.map((l, i) => text(bx + 7, by + 15 + i * 16, l, i ? `${SIDES[i - 1]}-ink` : "strong")).join(""),
        ),
    };
  };
  const near = (x) =>
    used.reduce(
      (best, b) =>
        Math.abs((edges[b][0] + edges[b][1]) / 2 - x) < Math.abs((edges[best][0] + edges[best][1]) / 2 - x) ? b : best,
      used[0],
    );
  return { out, label, stops: used, point, at: (x) => near(x) };
}
