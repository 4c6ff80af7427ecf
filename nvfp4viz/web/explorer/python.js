// What is shown as Python that shows the same in a notebook. Names and paths may be a stranger's: each is a string in it.

import { SIDES } from "../lib/sides.js";
import { recipeName } from "../lib/recipe.js";
import { num } from "../lib/text.js";
import { FROM_PAGE } from "./traits.js";

const GIVEN = { impact: "impact", frontier: "plan", drift: "drift" }; // what the page shows of the output, and who gave it
const SOURCES = ["load", "checkpoint"]; // functions that give what is explored

// `get` reads a trait; recipeOf(side) is a recipe's entry; `changed` is the microscope's block, where a value was changed.
export function pythonCode(get, { origin = {} }, recipeOf, changed) {
  const shown = FROM_PAGE.filter((name) => get(name)?.length).map((name) => [name, get(name)]);
  const named = Object.fromEntries(SIDES.map((side) => [`recipe_${side}`, nameOf(recipeOf(side), get(`recipe_${side}`))]));
  const words = shown.map(([name, value]) => `${name}=${JSON.stringify(named[name] ?? value)}`);
  const given = Object.entries(GIVEN).filter(([part]) => part in get("output"));
  words.push(...given.map(([, name]) => `${name}=${name}`));
  const how = SOURCES.find((name) => origin[name]);
  const source = how ? `nvfp4viz.${how}(${origin[how].map((path) => JSON.stringify(path)).join(", ")})` : "activations";
  return ["import nvfp4viz", ...blockCode(changed, Object.values(named)), `nvfp4viz.explore(${source}, ${words.join(", ")})`].join("\n");
}

// A sweep may have called a recipe anything; Python knows it by its settings.
const nameOf = (entry, name) => (entry ? recipeName(entry.settings) : name);

// The block with the value that was changed is in no file: it is printed before.
function blockCode(changed, recipes) {
  if (!changed) return [];
  const values = `[${changed.values.map(num).join(", ")}]`;
  const seen = changed.inspections.map(
    ({ amax }, i) => `print(nvfp4viz.analysis.inspect_block(${values}, ${num(amax)}, ${JSON.stringify(recipes[i])}))`,
  );
  return ["import nvfp4viz.analysis", ...seen];
}
