// What a report shows stands in its address, behind #: a link to the file, or a bookmark, opens it as it was seen.

import { FROM_PAGE } from "../explorer/traits.js";
import { own } from "../lib/own.js";
import { isComputed } from "../lib/recipe.js";

const CHOICES = {
  view: ["overview", "scales", "clipping", "error", "tensors", "microscope", "output"],
  scale: ["linear", "log"],
  span: ["data", "full"],
  sort: ["layer", "error", "gain", "effect"],
  under: ["a", "b"],
};

// The traits that an address has; what it has no such thing of is left out.
export function stateInHash(hash, { catalog, stats }) {
  const given = new Map(new URLSearchParams(hash.replace(/^#/, "")));
  const block = (given.get("block") || "").split(",").map(Number);
  const computes = given.get("view") === "microscope";
  const recipe = (name) => catalog.recipes.some((r) => r.name === name) || (computes && isComputed(name));
  const allowed = {
    tensor: own(stats, given.get("tensor")),
    recipe_a: recipe(given.get("recipe_a")),
    recipe_b: recipe(given.get("recipe_b")),
    rule: own(catalog.rules, given.get("rule")),
    block: block.length === 2 && block.every((v) => Number.isInteger(v) && v >= 0),
    ...Object.fromEntries(Object.entries(CHOICES).map(([name, values]) => [name, values.includes(given.get(name))])),
  };
  const known = FROM_PAGE.filter((name) => given.has(name) && allowed[name]);
  return Object.fromEntries(known.map((name) => [name, name === "block" ? block : given.get(name)]));
}

export function hashOf(get) {
  const shown = FROM_PAGE.map((name) => [name, String(get(name) ?? "")]).filter(([, value]) => value);
  return "#" + new URLSearchParams(shown);
}

const REST_MS = 150; // writing an address takes browsers longer than drawing, and Safari refuses the hundredth in half a minute

// Keep the address up to date with a model, once it rests
export function follow(model) {
  let timer;
  const write = () => history.replaceState(null, "", hashOf((name) => model.get(name)));
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(write, REST_MS);
  };
  for (const name of FROM_PAGE) model.on(`change:${name}`, later);
  if (location.hash) later(); // of which a part may have been nothing that the page has
}
