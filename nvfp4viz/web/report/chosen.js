// One tensor is chosen in the whole page: in figures, in the table and in the explorer alike.

const MARK = "-tensor:";

// The tensor whose name a text of a figure is: the whole name, of which the figure may show the ends only; null where it
// is none, for a name may be empty
function labelled(text) {
  const group = text.closest(`[id*="${MARK}"]`);
  return group && decodeURIComponent(group.id.slice(group.id.indexOf(MARK) + MARK.length));
}

const PARTS = "svg text.pick, #results tbody tr, tr[data-place]";

// A click on a tensor's name or row shows it in the explorer, and what is shown there is marked everywhere; so is what
// the pointer rests on. `tensors`: their names, in order; `tensorOf`: the tensor of a row of the table
export function choosable(model, tensors, tensorOf) {
  const known = new Set(tensors);
  const labels = [...document.querySelectorAll("figure.card svg text")].filter((t) => known.has(labelled(t)));
  for (const label of labels) label.classList.add("pick");
  const listed = [...document.querySelectorAll("tr[data-place]")];
  const rows = document.querySelector("#results tbody");
  const explorer = document.querySelector("#explorer .nv4");
  const nameOf = (part) => {
    if (part.dataset.place) return tensors[Number(part.dataset.place)];
    return part.matches("tr") ? tensorOf(part) : labelled(part);
  };
  const at = ({ target }) => target.closest?.(PARTS);
  const mark = (cls, name) => {
    for (const part of [...labels, ...listed, ...rows.rows]) part.classList.toggle(cls, nameOf(part) === name);
  };
  const markShown = () => mark("here", model.get("tensor"));
  document.addEventListener("click", (event) => {
    const part = at(event);
    if (!part || !known.has(nameOf(part)) || nameOf(part) === model.get("tensor")) return;
    model.set("block", []); // one of another tensor
    model.set("tensor", nameOf(part));
  });
  document.addEventListener("pointerover", (event) => {
    const part = at(event);
    if (!part && !at({ target: event.relatedTarget || document })) return;
    mark("pointed", part && nameOf(part));
    explorer.dispatchEvent(new CustomEvent("nv4-point", { detail: part ? nameOf(part) : null }));
  });
  explorer.addEventListener("nv4-pointed", ({ detail }) => mark("pointed", detail));
  model.on("change:tensor", markShown);
  new MutationObserver(markShown).observe(rows, { childList: true });
  markShown();
}
