// The page of a report: unfolds its data, lets the explorer draw it, and fills the table.

import { pairs } from "../explorer/cache.js";
import { mount } from "../explorer/mount.js";
import { studyOnly } from "../lib/recipe.js";
import { choosable } from "./chosen.js";
import { answers, dataOf } from "./data.js";
import { acceptReports } from "./dropped.js";
import { follow, stateInHash } from "./state.js";
import { fill } from "./table.js";

function explore(place, data) {
  place.textContent = "";
  const { catalog, summary, output } = data;
  const shown = JSON.parse(place.dataset.shown);
  const own = place.id === "explorer"; // the page's one; a notebook's page may have several
  const state = own ? stateInHash(location.hash, data) : {};
  const { model } = mount(place, { catalog, summary, output, tensor: catalog.tensors[0].name, ...shown, ...state }, answers(data));
  if (!own) return;
  follow(model);
  const study = new Map(catalog.recipes.map(({ name, settings }) => [name, studyOnly(settings)]));
  const order = new Map(catalog.tensors.map((t, i) => [t.name, i]));
  const rows = [...pairs(data.stats)].map(([tensor, recipe, s]) => ({ tensor, recipe, study: study.get(recipe), ...s }));
  rows.sort((p, q) => order.get(p.tensor) - order.get(q.tensor));
  const tensorOf = fill(rows);
  acceptReports({ name: "this report", data });
  choosable(model, catalog.tensors.map((t) => t.name), tensorOf);
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
const alone = !document.getElementById("explorer"); // a page of a comparison compares two others
if (alone && document.getElementById("reports")) acceptReports(null);
