// One block under A and under B: the 16 values between the grid of scale 6 above and of scale 4 below.

const BLOCK_LEFT = 176;
const BLOCK_RIGHT = 128;
const BLOCK_EACH = 158; // the height of one recipe
const LABELLED = [0, 1, 2, 3, 4, 6]; // of E2M1's values; 0.5 and 1.5 have no room
const CELLS_LEFT = 112; // where the table's columns begin
const CELL_ROW = 18;

function drawBlock(c, W, look, chosen) {
  const found = c.sides.map((s) => look.inspections[s.name]);
  const { values } = found[0];
  const X = valueAxis(found, W);
  const table = blockTable(W, look, found, chosen, 2 * BLOCK_EACH + 22);
  const tried = found.map((one, i) => blockHalf({ catalog: c.catalog, W, X, chosen, side: SIDES[i] }, one, i));
  return {
    out: tried.join("") + table.out,
    H: table.bottom,
    label: blockSaid(look, found),
    at: (x, y) => (y > table.top ? table.at(x) : nearest([...values.keys()], (t) => Math.abs(X(values[t]) - x))),
  };
}

function blockSaid({ token, block }, found) {
  const chose = found.map((f, i) => `${SIDES[i].toUpperCase()} chose ${f.choice}, byte ${hex(f.byte)}`).join("; ");
  return (
    `Block of token ${token}, columns ${block * 16} to ${block * 16 + 15}: ${chose}. ` +
    "Left and right choose a value."
  );
}

// Room for the largest that a candidate can hold, and for the values
function valueAxis(found, W) {
  const largest = found.flatMap((f) => f.candidates.map((k) => 6 * num(k.step)));
  const reach = Math.max(...largest, ...found[0].values.map(Math.abs)) || 1;
  const from = BLOCK_LEFT;
  const to = W - BLOCK_RIGHT;
  return (v) => (from + to) / 2 + (clamp(v / reach, -1.02, 1.02) * (to - from - 16)) / 2;
}

// One recipe: the candidates it tried round the line of values.
function blockHalf(plot, found, i) {
  const { W, X, side, chosen } = plot;
  const { candidates } = found;
  const top = i * BLOCK_EACH + 14;
  const middle = top + 58;
  const at = { "data-side": side, "data-choice": found.choice, "data-byte": found.byte };
  const value = (v, t) => {
    const [r, cls] = t === chosen ? [5, "value chosen"] : [3.2, "value "];
    return tag("circle", { cx: X(v), cy: middle, r, class: cls, "data-column": t });
  };
  return (
    text(0, middle - 5, side.toUpperCase(), `letter ${side}-ink`) +
    text(22, middle - 8, found.recipe, `strong ${side}-ink`, at) +
    text(22, middle + 9, candidates.length > 1 ? `chose ${found.choice}` : "always 6", "") +
    line(BLOCK_LEFT, middle, W - BLOCK_RIGHT, middle, "grid") +
    candidates.map((k, j) => candidate(plot, found, k, j, j ? top + 108 : top + 8, middle)).join("") +
    (candidates.length > 1 ? text(W, middle + 4, wonBy(found), `end ${side}-ink strong`) : "") +
    found.values.map(value).join("")
  );
}

// One scale that was tried: its grid as a rail at y, and how each value falls on it. The first is above the values.
function candidate(plot, found, k, j, y, middle) {
  const { W, X, side, chosen } = plot;
  const wins = k.to === found.choice;
  const cls = wins ? side : "lost";
  const fall = (v, t) => {
    const at = { "data-side": side, "data-to": k.to, "data-column": t };
    const got = { "data-decoded": k.decoded[t], "data-error": k.errors[t] };
    const style = `fall ${cls} ${t === chosen ? "chosen" : ""}`;
    return line(X(v), middle, X(num(k.decoded[t])), y, style, { ...at, ...got });
  };
  const score = { "data-side": side, "data-to": k.to, "data-score": k.score };
  return (
    line(X(-6 * k.step), y, X(6 * k.step), y, `rail ${cls}`) +
    railTicks(plot, k, y, j ? y + 16 : y - 8, cls, wins) +
    found.values.map(fall).join("") +
    text(22, y + 4, `to ${k.to}:  ${hex(k.byte)} = ${short(k.block_scale)}`, wins ? "" : "soft") +
    (k.saturated ? text(22, y + 18, `${short(k.h)} does not fit`, "warn") : "") +
    text(W, y - 2, short(k.score, 4), `end ${wins ? "strong" : "soft"}`, score) +
    text(W, y + 12, found.err_mode === "MAE" ? "sum |error|" : "sum error²", "end soft")
  );
}

function railTicks({ catalog, X }, k, y, below, cls, wins) {
  const signedValues = catalog.e2m1.flatMap((v) => (v ? [v, -v] : [0]));
  const one = (v) => {
    const x = X(v * k.step);
    const mark = line(x, y - 4, x, y + 4, `rail ${cls}`);
    if (!LABELLED.includes(Math.abs(v))) return mark;
    return mark + text(x, below, minus(String(v)), `${wins ? "" : "soft"} mid`);
  };
  return signedValues.map(one).join("");
}

function wonBy({ choice, candidates }) {
  const [six, four] = candidates.map((k) => num(k.score));
  if (six === four) return "a tie goes to 6";
  const more = Math.max(six, four);
  const less = Math.min(six, four);
  return `${choice} wins by ${percent((more - less) / more)}`;
}

// The 16 values, and what A and B make of them
function blockTable(W, look, found, chosen, y) {
  const cell = (W - CELLS_LEFT) / 16;
  const right = (t) => CELLS_LEFT + (t + 1) * cell - 4;
  const rows = tableRows(found);
  const size = powerOf(found[0].values); // errors get the values' decimals
  const columns = found[0].values.map((_, t) => text(right(t), y - 2, look.block * 16 + t, "soft end"));
  const drawn = rows.map((row, r) => tableRow(row, y + 17 + r * CELL_ROW, right, size));
  const height = rows.length * CELL_ROW;
  const here = rect(CELLS_LEFT + chosen * cell, y - 16, cell, height + 22, "here", { rx: 2 });
  return {
    out: here + columns.join("") + text(0, y - 2, "column", "soft") + drawn.join(""),
    top: y - 20,
    bottom: y + height + 10,
    at: (x) => clamp(Math.floor((x - CELLS_LEFT) / cell), 0, 15),
  };
}

function tableRows(found) {
  const bySide = found.flatMap((f, i) => {
    const { decoded, errors } = f.candidates.find((k) => k.to === f.choice);
    const ink = `${SIDES[i]}-ink`;
    const letter = SIDES[i].toUpperCase();
    return [
      { label: `${letter} decoded`, stored: decoded, ink, cls: "" },
      { label: `${letter} error`, stored: errors, ink, cls: "soft" },
    ];
  });
  return [{ label: "value", stored: found[0].values, ink: "label", cls: "" }, ...bySide];
}

// A row of very small or very large values has a power of ten in front of it.
function tableRow({ label, stored, ink, cls }, y, right, size) {
  const values = stored.map(num);
  const power = powerOf(values);
  const unit = power < -3 || power > 3 ? 10 ** power : 1;
  const digits = clamp(unit === 1 ? 2 - size : 2, 0, 5);
  const times = unit === 1 ? "" : ` ×${short(unit)}`.replace("1×", "");
  const one = (v, t) => {
    const at = { "data-row": label, "data-column": t, "data-value": stored[t] };
    return text(right(t), y, v ? fixed(v / unit, digits) : "0", `end small ${cls}`, at);
  };
  return text(0, y, label + times, ink) + values.map(one).join("");
}

const powerOf = (values) => Math.floor(Math.log10(Math.max(...values.map(Math.abs)) || 1));
