// The table of a page: sort by a column, filter by words, download as CSV.

import { NAMELESS, esc, fixed, int, num, percent, short } from "../lib/text.js";

const FIRST_ROWS = 100; // rows are made as they come into view, all for printing
const MORE_ROWS = 300;

const SHOW = {
  text: esc,
  count: int,
  db: (v) => fixed(v, 3),
  gain: (v) => (v > 0 ? "+" : "") + short(v, 3),
  share: percent,
  unit: (v) => fixed(v, 6),
  short: (v) => short(v),
};

// Gives what tells the tensor of a row that is shown.
export function fill(all) {
  const box = document.getElementById("results");
  const filter = document.getElementById("filter");
  const head = [...box.querySelectorAll("th")];
  const body = box.querySelector("tbody");
  const columns = head.map((th) => ({ ...th.dataset, more: th.classList.contains("more") }));
  const best = bestRows(all);
  const written = new Map(all.map((row) => [row, wordsOf(row, columns)]));
  let rows = all;
  let limit = FIRST_ROWS;

  const draw = (n = limit) => {
    const shown = rows.slice(0, n).map((row) => `<tr${best.has(row) ? ' class="best"' : ""}>${columns.map((column) => cell(row, column)).join("")}</tr>`);
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
  document.getElementById("all").addEventListener("change", ({ target }) => {
    box.querySelector("table").classList.toggle("brief", !target.checked);
  });
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
  return (tr) => rows[tr.sectionRowIndex].tensor;
}

const cellValue = (row, name) => num(row.rates && name in row.rates ? row.rates[name][0] : row[name]);

function cell(row, { name, kind, more }) {
  const shown = SHOW[kind](cellValue(row, name)) || (name === "tensor" ? NAMELESS : "");
  const study = name === "recipe" && row.study ? ` <em class="study" title="${esc(row.study)}">study only</em>` : "";
  if (kind === "text") return `<td class="text" title="${esc(row[name])}">${shown}${study}</td>`;
  return more ? `<td class="more">${shown}</td>` : `<td>${shown}</td>`;
}

// Rows of the recipe with the least error of each tensor
function bestRows(all) {
  const best = new Map();
  for (const row of all) {
    const most = best.get(row.tensor);
    if (num(row.sqnr_db) > (most ? num(most.sqnr_db) : -Infinity)) best.set(row.tensor, row);
  }
  return new Set(best.values());
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
