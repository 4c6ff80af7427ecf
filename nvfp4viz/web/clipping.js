// Rates on a logarithmic axis, A and B joined; the definition below gives way to the counts under the pointer.
function drawClipping(c, W) {
  const rates = Object.entries(c.catalog.rates),
    row = 37,
    top = 24,
    H = top + rates.length * row;
  const x0 = 126,
    x1 = W - 136,
    floor = -5,
    X = (v) => (v <= 0 ? x0 : x0 + 14 + clamp((Math.log10(v) - floor) / -floor, 0, 1) * (x1 - x0 - 14));
  let out = "";
  const marks = [
    [0, "0"],
    [1e-4, "0.01 %"],
    [1e-3, "0.1"],
    [1e-2, "1 %"],
    [1e-1, "10"],
    [1, "100 %"],
  ];
  for (const [v, label] of marks)
    if (W > 560 || v === 0 || v === 1e-2 || v === 1) out += text(X(v), 10, label, "soft mid");
  SIDES.forEach((side, i) => (out += text(W - 62 + i * 60, 10, side.toUpperCase(), `end strong ${side}-ink`)));
  rates.forEach(([name, meaning], i) => {
    const y = top + i * row + 10,
      values = c.sides.map((s) => s.stats.rates[name]);
    for (const [v] of marks) out += line(X(v), y - 6, X(v), y + 6, "grid");
    out += text(0, y + 4, words(name), "label") + line(X(values[0][0]), y, X(values[1][0]), y, "join");
    c.sides.forEach((s, k) => {
      const [rate, count, of] = values[k];
      out += tag(
        "g",
        { "data-side": s.side, "data-rate": name, "data-value": rate, "data-count": count, "data-of": of },
        dot(X(rate), y, s.side, 4) +
          text(W - 62 + k * 60, y + 4, percent(rate), `end ${rate ? s.side + "-ink" : "soft"}`),
      );
    });
    out += text(0, y + 19, meaning, "soft meaning", { "data-row": i });
    out += text(
      0,
      y + 19,
      c.sides.map((s, k) => `${s.side.toUpperCase()} ${int(values[k][1])} of ${int(values[k][2])}`).join("   ·   ") +
        (name.startsWith("element_cl")
          ? " elements"
          : name.startsWith("element")
            ? " non-zero elements"
            : " non-zero blocks"),
      "counts",
      { "data-row": i },
    );
  });
  out += `<g class="cursor"></g>`;
  const point = (i) => ({ said: rates[i][0], row: i, svg: "" });
  const label =
    `Clipping rates of ${c.tensor}: ` +
    rates
      .map(
        ([n]) => `${words(n)} A ${percent(c.sides[0].stats.rates[n][0])}, B ${percent(c.sides[1].stats.rates[n][0])}`,
      )
      .join("; ");
  return {
    out,
    H,
    label,
    stops: rates.map((_, i) => i),
    point,
    at: (_, y) => clamp(Math.floor((y - top) / row), 0, rates.length - 1),
  };
}
