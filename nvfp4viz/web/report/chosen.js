// One tensor is chosen in the whole page: in figures, in the table and in the explorer alike.

const MARK = "-tensor:";

// The tensor whose name a text of a figure is: the whole name, of which the figure may show the ends only; null where it
// is none, for a name may be empty
function labelled(text) {
  const group = text.closest(`[id*="${MARK}"]`);
  return group && decodeURIComponent(group.id.slice(group.id.indexOf(MARK) + MARK.length));
}

// A click on a tensor's name or row shows it in the explorer, and what is shown there is marked everywhere.
// `tensorOf`: the tensor of a row of the table
export function choosable(model, names, tensorOf) {
  const known = new Set(names);
  const labels = [...document.querySelectorAll("figure.card svg text")].filter((t) => known.has(labelled(t)));
  for (const label of labels) label.classList.add("pick");
  const nameOf = (part) => (part.matches("tr") ? tensorOf(part) : labelled(part));
  document.addEventListener("click", ({ target }) => {
    const part = target.closest("svg text.pick, #results tbody tr");
    if (part && known.has(nameOf(part))) model.set("tensor", nameOf(part));
  });
  const rows = document.querySelector("#results tbody");
  const mark = () => {
    for (const part of [...labels, ...rows.rows]) part.classList.toggle("here", nameOf(part) === model.get("tensor"));
  };
  model.on("change:tensor", mark);
  new MutationObserver(mark).observe(rows, { childList: true });
  mark();
}
