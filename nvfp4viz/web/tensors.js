// All tensors, one column each: a lane for each number. Clicking goes there.
const LANES = {
  sqnr_db: ["SQNR, dB", 1],
  gain: ["B − A, dB", 1],
  four_rate: ["chose 4, %", 100],
  four_saturated: ["4 saturated, %", 100],
  scale_subnormal: ["scale subnormal, %", 100],
  element_clipped: ["element clipped, %", 100],
  element_flushed: ["element flushed, %", 100],
};
function drawTensors(c, W, lanes, height, previous) {
  const left = 128,
    right = 12,
    names = c.order,
    n = names.length,
    step = (W - left - right) / n,
    X = (i) => left + (i + 0.5) * step,
    gap = 18;
  const H = lanes.length * (height + gap) + 20,
    here = names.indexOf(c.tensor);
  const frame = { left: X(here) - Math.max(step, 5) / 2, width: Math.max(step, 5), height: H - 18 };
  const key = [W, lanes, c.sort, ...c.sides.map((s) => s.name), c.version].join();
  const label = `All ${n} tensors: SQNR under A and B; shown is ${c.tensor}. Arrow keys go to the next.`;
  if (key === previous?.key) return { ...previous, frame, label }; // no more than another tensor was chosen
  let out = "";
  lanes.forEach((lane, k) => {
    const [title, unit] = LANES[lane],
      y0 = k * (height + gap) + 6,
      column = c.catalog.summary_columns.indexOf(lane);
    const value = (name, side) => {
      const at = (s) => num(c.summaryOf(name, s.name)?.[lane === "gain" ? 0 : column]);
      return lane === "gain" ? at(c.sides[1]) - at(c.sides[0]) : unit * at(side);
    };
    const all = names
      .flatMap((name) => (lane === "gain" ? [value(name)] : c.sides.map((s) => value(name, s))))
      .filter(Number.isFinite);
    let low = Math.min(...all),
      high = Math.max(...all);
    if (lane !== "sqnr_db") [low, high] = [Math.min(0, low), Math.max(0, high)];
    const nothing = all.length && low === 0 && high === 0;
    if (!(high > low)) [low, high] = lane === "sqnr_db" && all.length ? [low - 0.5, high + 0.5] : [0, 1];
    const Y = (v) => y0 + height - ((v - low) / (high - low)) * height,
      r = clamp(step / 4, 1.2, 3.6);
    out += text(0, y0 + height / 2 + 4, title, "label");
    const digits = high - low >= 20 ? 0 : high - low >= 2 ? 1 : high - low >= 0.2 ? 2 : 3;
    if (nothing) out += text(left + 4, y0 + height - 5, lane === "gain" ? "no difference" : "none", "soft");
    const labels = nothing
      ? []
      : [high, low, 0].filter((v, i) => i < 2 || (low < 0 && high > 0 && Math.min(Y(0) - Y(high), Y(low) - Y(0)) > 11));
    for (const v of all.length ? labels : [])
      out += text(
        left - 7,
        Y(v) + 3.5,
        v === 0 ? "0" : lane === "gain" ? signed(v, digits) : fixed(v, digits),
        "soft end",
      );
    out +=
      lane === "gain"
        ? line(left, Y(0), W - right, Y(0), "axis")
        : line(left, y0 + height, W - right, y0 + height, "grid");
    if (!nothing)
      names.forEach((name, i) => {
        const [a, b] = c.sides.map((s) => value(name, s)),
          x = X(i);
        if (lane === "gain") {
          if (Number.isFinite(a))
            out += rect(
              x - Math.max(step * 0.3, 0.6),
              Math.min(Y(0), Y(a)),
              Math.max(step * 0.6, 1.2),
              Math.abs(Y(a) - Y(0)),
              `bar ${a > 0 ? "b" : "a"}`,
              { "data-tensor": name, "data-gain": a },
            );
          return;
        }
        if (Number.isFinite(a) && Number.isFinite(b)) out += line(x, Y(a), x, Y(b), "join");
        [a, b].forEach((v, j) => {
          if (Number.isFinite(v))
            out += tag(
              "g",
              { "data-tensor": name, "data-lane": lane, "data-side": SIDES[j], "data-value": v / unit },
              dot(x, Y(v), SIDES[j], r),
            );
        });
      });
  });
  if (c.sort === "layer") {
    // number the layers below, as many as fit
    let at = -99;
    const named = (m) => c.layerOf.get(m) ?? (step > 46 ? m : null); // without a layer: by name, where there is room
    for (const [of, group] of groups(names, named)) {
      const x = (X(names.indexOf(group[0])) + X(names.indexOf(group.at(-1)))) / 2,
        room = Math.max(step * group.length, 30) / 6.4;
      const whole =
        of === null ? (group.length > 2 ? "others" : group[0].split(".").at(-1)) : String(of).split(".").at(-1);
      const label = typeof of === "string" && whole.length > room ? whole.slice(0, room - 1) + "…" : whole;
      const wide = 3.1 * label.length; // half its width
      if (x - wide > at + 5 && label.length < Math.max(room, 9)) {
        out += text(Math.min(x, W - wide), H - 4, label, "soft mid");
        at = x + wide;
      }
    }
    if (names.some((m) => c.layerOf.get(m) !== null)) out += text(left - 7, H - 4, "layer", "soft end");
  } else
    out += text(
      left,
      H - 4,
      c.sort === "error" ? "ordered by A's SQNR, the worst first" : "ordered by B − A, B's greatest loss first",
      "soft",
    );
  out += `<g class="cursor"></g>`;
  const point = (i) => {
    const s = c.sides.map((side) => c.summaryOf(names[i], side.name)?.[0]),
      said =
        names[i] +
        (s[0] !== undefined ? `   A ${fixed(s[0])} dB` : "") +
        (s[1] !== undefined ? `   B ${fixed(s[1])} dB` : "");
    const w = 14 + said.length * 6.2,
      bx = clamp(X(i) - w / 2, 0, W - w);
    return {
      said,
      svg:
        line(X(i), 0, X(i), H - 18, "hair") +
        tag("g", { class: "tip" }, rect(bx, H - 19, w, 19, "", { rx: 3 }) + text(bx + 7, H - 5, said)),
    };
  };
  return {
    key,
    frame,
    out,
    H,
    label,
    stops: names.map((_, i) => i),
    point,
    at: (x) => clamp(Math.floor((x - left) / step), 0, n - 1),
  };
}
const groups = (list, key) => list.reduce((m, v) => m.set(key(v), [...(m.get(key(v)) || []), v]), new Map());
