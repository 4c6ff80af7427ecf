// The page of a report, behind the explorer's module in one script: it unfolds the data of the page, lets the explorer
// draw it, and fills the table. Numbers are Python's; only decoded values are multiplied out, as `inspect_block` does.

const FIRST_ROWS = 100; // rows are made as they come into view, all for printing
const MORE_ROWS = 300;

// JSON, gzipped, in base64
async function dataOf(id) {
  const text = document.getElementById(id).textContent;
  const packed = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(unpacked).text());
}

// What microscope.inspect_block gives, from [amax, encode scale, decode scale, choice, candidate...]
function unfold([amax, _encode, decode, choice, ...tried], values, recipe, catalog) {
  const scale = Math.fround(num(decode));
  const candidates = tried.map((one, i) => unfoldCandidate(one, i ? 4 : 6, values, scale, catalog));
  return {
    recipe: recipe.name,
    err_mode: recipe.settings.err_mode,
    values,
    amax: Math.fround(num(amax)),
    choice,
    byte: candidates[choice === 4 ? 1 : 0].byte,
    candidates,
  };
}

// A candidate is [h, byte, saturated, score, codes]. Values are rounded once, as in float32.
function unfoldCandidate([h, byte, saturated, score, digits], to, values, scale, { e4m3, e2m1 }) {
  const codes = [...digits].map((d) => parseInt(d, 16));
  const decoded = codes.map((c) => Math.fround((c & 8 ? -1 : 1) * e2m1[c & 7] * e4m3[byte] * scale));
  return {
    to,
    h: Math.fround(num(h)),
    byte,
    block_scale: e4m3[byte],
    saturated: saturated === 1,
    step: Math.fround(e4m3[byte] * scale),
    codes,
    decoded,
    errors: decoded.map((v, k) => v - values[k]),
    score: Math.fround(num(score)),
  };
}

// What a kernel would answer, as far as the page holds it
function answers(data) {
  const wanted = { stats: statsAnswer, picks: picksAnswer, block: blockAnswer };
  return (message) => wanted[message.want]?.(data, message) || null;
}

function statsAnswer({ stats }, { tensor, recipes }) {
  const row = stats[tensor];
  return row && recipes.every((name) => row[name]) && { kind: "stats", stats: { [tensor]: row } };
}

function picksAnswer({ blocks }, { tensor, recipe, rule }) {
  const picks = blocks[tensor]?.picks[`${recipe}|${rule}`];
  return picks && { kind: "picks", ...picks };
}

function blockAnswer({ catalog, blocks, inspections }, { tensor, recipes, block, values }) {
  const kept = blocks[tensor]?.blocks;
  const at = kept && !values ? Object.keys(kept).indexOf(block.join()) : -1;
  if (at < 0) return null;
  const { values: stored, token_text } = kept[block.join()];
  const found = inspections[tensor][at];
  if (!recipes.every((name) => found[name])) return null;
  const byName = (name) => catalog.recipes.find((r) => r.name === name);
  const seen = recipes.map((name) => [name, unfold(found[name], stored, byName(name), catalog)]);
  return { kind: "block", stored, token_text, inspections: Object.fromEntries(seen) };
}

function explore(place, data) {
  place.textContent = "";
  const { catalog, summary } = data;
  const shown = JSON.parse(place.dataset.shown);
  mount(place, { catalog, summary, tensor: catalog.tensors[0].name, ...shown }, answers(data));
  if (place.id === "explorer") fill([...pairs(data.stats)].map(([tensor, recipe, s]) => ({ tensor, recipe, ...s })));
}

// The table: sort by a column, filter by words, download as CSV.
const SHOW = {
  text: esc,
  count: int,
  db: (v) => fixed(v, 3),
  gain: (v) => (v > 0 ? "+" : "") + short(v, 3),
  share: percent,
  unit: (v) => fixed(v, 6),
  short: (v) => short(v),
};

function fill(all) {
  const box = document.getElementById("results");
  const filter = document.getElementById("filter");
  const head = [...box.querySelectorAll("th")];
  const body = box.querySelector("tbody");
  const columns = head.map((th) => th.dataset);
  const written = new Map(all.map((row) => [row, wordsOf(row, columns)]));
  let rows = all;
  let limit = FIRST_ROWS;

  const draw = (n = limit) => {
    const shown = rows.slice(0, n).map((row) => `<tr>${columns.map((column) => cell(row, column)).join("")}</tr>`);
    body.innerHTML = shown.join("");
  };
  const choose = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    rows = all.filter((row) => wanted.every((word) => written.get(row).includes(word)));
    sortRows(rows, head);
    limit = FIRST_ROWS;
    box.scrollTop = 0;
    document.getElementById("shown").textContent = `${int(rows.length)} of ${int(all.length)} rows`;
    draw();
  };

  for (const th of head) {
    th.firstChild.addEventListener("click", () => {
      turnOrder(th, head);
      choose();
    });
  }
  filter.addEventListener("input", choose);
  box.addEventListener("scroll", () => {
    const nearEnd = box.scrollTop + 2 * box.clientHeight > box.scrollHeight;
    if (limit < rows.length && nearEnd) draw((limit += MORE_ROWS));
  });
  const buttons = head.map((th) => th.firstChild); // a heading with a button is not repeated on every printed page
  addEventListener("beforeprint", () => {
    draw(rows.length);
    for (const th of head) th.textContent = th.textContent;
  });
  addEventListener("afterprint", () => {
    draw();
    head.forEach((th, i) => th.replaceChildren(buttons[i]));
  });
  document.getElementById("csv").addEventListener("click", () => download("nvfp4viz.csv", csv(rows, columns)));
  choose();
}

const cellValue = (row, name) => num(row.rates && name in row.rates ? row.rates[name][0] : row[name]);

function cell(row, { name, kind }) {
  const shown = SHOW[kind](cellValue(row, name));
  return kind === "text" ? `<td class="text" title="${esc(row[name])}">${shown}</td>` : `<td>${shown}</td>`;
}

// What the filter looks through
function wordsOf(row, columns) {
  const texts = columns.filter((c) => c.kind === "text").map((c) => row[c.name]);
  return texts.join(" ").toLowerCase();
}

// By the column whose heading says so: upwards at first, then downwards.
function turnOrder(th, head) {
  const down = th.ariaSort === "ascending";
  for (const other of head) other.ariaSort = null;
  th.ariaSort = down ? "descending" : "ascending";
}

function sortRows(rows, head) {
  const sorted = head.find((th) => th.ariaSort);
  if (!sorted) return;
  const { name } = sorted.dataset;
  const sign = sorted.ariaSort === "descending" ? -1 : 1;
  rows.sort((p, q) => sign * compared(cellValue(p, name), cellValue(q, name)));
}

function compared(p, q) {
  return typeof p === "string" ? p.localeCompare(q, "en", { numeric: true }) : (p > q) - (p < q);
}

function csv(rows, columns) {
  const names = columns.map((c) => c.name);
  const lines = [names, ...rows.map((row) => names.map((name) => cellValue(row, name)))];
  return lines.map((cells) => cells.map(quoted).join(",")).join("\r\n");
}

// A leading = + - @ would be a formula to a spreadsheet.
function quoted(v) {
  const harmless = typeof v === "string" && /^[=+\-@\t\r]/.test(v) ? "'" + v : String(v);
  return `"${harmless.replaceAll('"', '""')}"`;
}

function download(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function unreadable(place, { message }) {
  const why = "it was truncated or edited, ask for it again.";
  place.textContent = `The data in this file cannot be read (${message}): ${why}`;
}

for (const place of document.querySelectorAll("[data-sweep]")) {
  dataOf(place.dataset.sweep)
    .then((data) => explore(place, data))
    .catch((error) => unreadable(place, error));
}
if (document.getElementById("rows")) dataOf("rows").then(fill);
