// The page of a report, behind the explorer's module in one script: it unfolds the data of the page, lets the explorer
// draw it, and fills the table. Numbers are Python's; only decoded values are multiplied out, as `inspect_block` does.
const dataOf = async (id) => {
  const text = document.getElementById(id).textContent;
  const packed = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return JSON.parse(
    await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text(),
  );
};

// [amax, encode scale, decode scale, choice, [h, byte, saturated, score, codes]...] to what microscope.inspect_block gives
function unfold([amax, encode, decode, choice, ...tried], values, recipe, { e4m3, e2m1 }) {
  const scale = Math.fround(num(decode));
  const candidates = tried.map(([h, byte, saturated, score, digits], i) => {
    const codes = [...digits].map((d) => parseInt(d, 16));
    const decoded = codes.map((c) => Math.fround((c & 8 ? -1 : 1) * e2m1[c & 7] * e4m3[byte] * scale)); // rounded once, as in float32
    return {
      to: i ? 4 : 6,
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
  });
  const byte = candidates[choice === 4 ? 1 : 0].byte;
  return {
    recipe: recipe.name,
    err_mode: recipe.settings.err_mode,
    values,
    amax: Math.fround(num(amax)),
    choice,
    byte,
    candidates,
  };
}

// What a kernel would answer, as far as the page holds it
const answers =
  ({ catalog, stats, blocks, inspections }) =>
  ({ want, tensor, recipes, recipe, rule, block, values }) => {
    const row = stats[tensor],
      kept = blocks[tensor];
    if (want === "stats" && row && recipes.every((name) => row[name]))
      return { kind: "stats", stats: { [tensor]: row } };
    if (want === "picks" && kept?.picks[`${recipe}|${rule}`])
      return { kind: "picks", ...kept.picks[`${recipe}|${rule}`] };
    const at = want === "block" && kept && !values ? Object.keys(kept.blocks).indexOf(block.join()) : -1;
    if (at < 0) return null;
    const { values: stored, token_text } = kept.blocks[block.join()],
      found = inspections[tensor][at];
    const seen = recipes.map((name) => [
      name,
      found[name] &&
        unfold(
          found[name],
          stored,
          catalog.recipes.find((r) => r.name === name),
          catalog,
        ),
    ]);
    return seen.every(([, one]) => one)
      ? { kind: "block", stored, token_text, inspections: Object.fromEntries(seen) }
      : null;
  };

for (const place of document.querySelectorAll("[data-sweep]")) {
  dataOf(place.dataset.sweep)
    .then((data) => {
      place.textContent = "";
      const { catalog, summary } = data;
      mount(
        place,
        { catalog, summary, tensor: catalog.tensors[0].name, ...JSON.parse(place.dataset.shown) },
        answers(data),
      );
      if (place.id === "explorer")
        fill(
          Object.entries(data.stats).flatMap(([tensor, row]) =>
            Object.entries(row).map(([recipe, s]) => ({ tensor, recipe, ...s })),
          ),
        );
    })
    .catch((error) => {
      place.textContent = `The data in this file cannot be read (${error.message}): it was truncated or edited, ask for it again.`;
    });
}
if (document.getElementById("rows")) dataOf("rows").then(fill);

// The table: sort by a column, filter by words, download as CSV. Rows are made as they come into view, all for printing.
function fill(all) {
  const box = document.getElementById("results"),
    head = [...box.querySelectorAll("th")],
    body = box.querySelector("tbody");
  const filter = document.getElementById("filter"),
    columns = head.map((th) => th.dataset);
  const value = (row, name) => num(row.rates && name in row.rates ? row.rates[name][0] : row[name]);
  const show = {
    text: esc,
    count: int,
    db: (v) => fixed(v, 3),
    gain: (v) => (v > 0 ? "+" : "") + short(v, 3),
    share: percent,
    unit: (v) => fixed(v, 6),
    short: (v) => short(v),
  };
  const td =
    (row) =>
    ({ name, kind }) =>
      `<td${kind === "text" ? ` class="text" title="${esc(row[name])}"` : ""}>${show[kind](value(row, name))}</td>`;
  const texts = new Map(
    all.map((row) => [
      row,
      columns
        .filter((c) => c.kind === "text")
        .map((c) => row[c.name])
        .join(" ")
        .toLowerCase(),
    ]),
  );
  let rows = all,
    limit = 100;
  const draw = (n = limit) => {
    body.innerHTML = rows
      .slice(0, n)
      .map((row) => `<tr>${columns.map(td(row)).join("")}</tr>`)
      .join("");
  };
  const choose = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    const sorted = head.find((th) => th.ariaSort),
      name = sorted?.dataset.name,
      sign = sorted?.ariaSort === "descending" ? -1 : 1;
    const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : (a > b) - (a < b));
    rows = all.filter((row) => words.every((word) => texts.get(row).includes(word)));
    if (name) rows.sort((p, q) => sign * order(value(p, name), value(q, name)));
    limit = 100;
    box.scrollTop = 0;
    document.getElementById("shown").textContent = `${int(rows.length)} of ${int(all.length)} rows`;
    draw();
  };
  for (const th of head) {
    th.firstChild.addEventListener("click", () => {
      const down = th.ariaSort === "ascending";
      for (const other of head) other.ariaSort = null;
      th.ariaSort = down ? "descending" : "ascending";
      choose();
    });
  }
  filter.addEventListener("input", choose);
  box.addEventListener("scroll", () => {
    if (limit < rows.length && box.scrollTop + 2 * box.clientHeight > box.scrollHeight) draw((limit += 300));
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
  document.getElementById("csv").addEventListener("click", () => {
    // a leading = + - @ would be a formula to a spreadsheet
    const quote = (v) =>
      `"${(typeof v === "string" && /^[=+\-@\t\r]/.test(v) ? "'" + v : String(v)).replaceAll('"', '""')}"`;
    const lines = [columns.map((c) => c.name), ...rows.map((row) => columns.map((c) => value(row, c.name)))];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(
      new Blob([lines.map((line) => line.map(quote).join(",")).join("\r\n")], { type: "text/csv" }),
    );
    link.download = "nvfp4viz.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  choose();
}
