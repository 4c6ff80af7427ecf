// One block under A and under B: the 16 values between the grid of scale 6 above and of scale 4 below.
function drawBlock(c, W, look, chosen) {
  const left = 176,
    right = 128,
    each = 158,
    X0 = left,
    X1 = W - right;
  const found = c.sides.map((s) => look.inspections[s.name]);
  const reach =
    Math.max(...found.flatMap((f) => f.candidates.map((k) => 6 * num(k.step))), ...found[0].values.map(Math.abs)) || 1;
  const X = (v) => (X0 + X1) / 2 + (clamp(v / reach, -1.02, 1.02) * (X1 - X0 - 16)) / 2;
  let out = "";
  found.forEach((f, i) => {
    const side = SIDES[i],
      y0 = i * each + 14,
      middle = y0 + 58;
    out +=
      text(0, middle - 5, side.toUpperCase(), `letter ${side}-ink`) +
      text(22, middle - 8, f.recipe, `strong ${side}-ink`, {
        "data-side": side,
        "data-choice": f.choice,
        "data-byte": f.byte,
      });
    out += text(22, middle + 9, f.candidates.length > 1 ? `chose ${f.choice}` : "always 6", "");
    out += line(X0, middle, X1, middle, "grid");
    f.candidates.forEach((k, j) => {
      const y = j ? y0 + 108 : y0 + 8,
        wins = k.to === f.choice,
        cls = wins ? side : "lost";
      out += line(X(-6 * k.step), y, X(6 * k.step), y, `rail ${cls}`);
      c.catalog.e2m1.forEach((e, t) => {
        for (const sign of t ? [1, -1] : [1]) {
          const x = X(sign * e * k.step);
          out +=
            line(x, y - 4, x, y + 4, `rail ${cls}`) +
            ([0, 1, 2, 3, 4, 6].includes(e)
              ? text(x, j ? y + 16 : y - 8, minus(String(sign * e)), `${wins ? "" : "soft"} mid`)
              : "");
        }
      });
      f.values.forEach((v, t) => {
        const at = {
          "data-side": side,
          "data-to": k.to,
          "data-column": t,
          "data-decoded": k.decoded[t],
          "data-error": k.errors[t],
        };
        out += line(X(v), middle, X(num(k.decoded[t])), y, `fall ${cls} ${t === chosen ? "chosen" : ""}`, at);
      });
      out +=
        text(22, j ? y + 4 : y + 4, `to ${k.to}:  ${hex(k.byte)} = ${short(k.block_scale)}`, wins ? "" : "soft") +
        (k.saturated ? text(22, j ? y + 18 : y + 18, `${short(k.h)} does not fit`, "warn") : text(22, y + 18, "", ""));
      out +=
        text(W, y - 2, short(k.score, 4), `end ${wins ? "strong" : "soft"}`, {
          "data-side": side,
          "data-to": k.to,
          "data-score": k.score,
        }) + text(W, y + 12, `${f.err_mode === "MAE" ? "sum |error|" : "sum error²"}${f.scored ? "" : ""}`, "end soft");
    });
    if (f.candidates.length > 1) {
      const [six, four] = f.candidates.map((k) => num(k.score)),
        more = Math.max(six, four),
        less = Math.min(six, four);
      out += text(
        W,
        middle + 4,
        six === four ? "a tie goes to 6" : `${f.choice} wins by ${percent((more - less) / more)}`,
        `end ${side}-ink strong`,
      );
    }
    f.values.forEach(
      (v, t) =>
        (out += tag("circle", {
          cx: X(v),
          cy: middle,
          r: t === chosen ? 5 : 3.2,
          class: `value ${t === chosen ? "chosen" : ""}`,
          "data-column": t,
        })),
    );
  });
  const y = 2 * each + 22,
    cell = (W - 112) / 16,
    rows = [
      ["value", (f, k, t) => f.values[t], ""],
      ...SIDES.flatMap((s) => [
        [`${s.toUpperCase()} decoded`, (f, k, t) => k.decoded[t], s],
        [`${s.toUpperCase()} error`, (f, k, t) => k.errors[t], s],
      ]),
    ];
  out += rect(112 + chosen * cell, y - 16, cell, rows.length * 18 + 22, "here", { rx: 2 });
  for (let t = 0; t < 16; t++) out += text(112 + (t + 1) * cell - 4, y - 2, look.block * 16 + t, "soft end");
  out += text(0, y - 2, "column", "soft");
  const size = Math.floor(Math.log10(Math.max(...found[0].values.map(Math.abs)) || 1)); // errors with the values' decimals
  rows.forEach(([label, value, side], r) => {
    const f = found[side === "b" ? 1 : 0],
      k = f.candidates.find((q) => q.to === f.choice),
      row = f.values.map((_, t) => num(value(f, k, t)));
    const power = Math.floor(Math.log10(Math.max(...row.map(Math.abs)) || 1)),
      unit = power < -3 || power > 3 ? 10 ** power : 1;
    out += text(
      0,
      y + 17 + r * 18,
      label + (unit === 1 ? "" : ` ×${short(unit)}`.replace("1×", "")),
      side ? `${side}-ink` : "label",
    );
    row.forEach(
      (v, t) =>
        (out += text(
          112 + (t + 1) * cell - 4,
          y + 17 + r * 18,
          v ? fixed(v / unit, clamp(unit === 1 ? 2 - size : 2, 0, 5)) : "0",
          `end small ${label.endsWith("error") ? "soft" : ""}`,
          { "data-row": label, "data-column": t, "data-value": value(f, k, t) },
        )),
    );
  });
  const H = y + rows.length * 18 + 10;
  const label =
    `Block of token ${look.token}, columns ${look.block * 16} to ${look.block * 16 + 15}: ` +
    found.map((f, i) => `${SIDES[i].toUpperCase()} chose ${f.choice}, byte ${hex(f.byte)}`).join("; ") +
    ". Left and right choose a value.";
  return {
    out,
    H,
    label,
    at: (x, py) =>
      py > y - 20
        ? clamp(Math.floor((x - 112) / cell), 0, 15)
        : found[0].values.reduce((b, v, t) => (Math.abs(X(v) - x) < Math.abs(X(found[0].values[b]) - x) ? t : b), 0),
  };
}
