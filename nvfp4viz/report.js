// The table of the report: sort by a column, filter by a text, download as CSV. The rows are in the page already.
const table = document.querySelector("#results table");
const body = table.tBodies[0];
const rows = [...body.rows];
const cell = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent.trim();

for (const [i, heading] of [...table.tHead.rows[0].cells].entries()) {
  heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    rows.sort((a, b) => (down ? -1 : 1) * compare(cell(a, i), cell(b, i)));
    body.append(...rows);
  });
}

const filter = document.querySelector("#filter");
const shown = document.querySelector("#shown");
const applyFilter = () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += !row.hidden;
  }
  shown.textContent = `${count} of ${rows.length} rows`;
};
filter.addEventListener("input", applyFilter);
applyFilter();

document.querySelector("#csv").addEventListener("click", () => {
  // a leading = + - @ would be a formula to a spreadsheet
  const quote = (text) => `"${(/^[=+@\t\r]|^-(?![\d.])/.test(text) ? "'" + text : text).replaceAll('"', '""')}"`;
  const head = [...table.tHead.rows[0].cells].map((c) => c.dataset.name);
  const lines = [head, ...rows.filter((r) => !r.hidden).map((r) => head.map((_, i) => cell(r, i)))];
  const blob = new Blob([lines.map((line) => line.map(quote).join(",")).join("\r\n")], { type: "text/csv" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "nvfp4viz.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
