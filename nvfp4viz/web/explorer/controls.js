// What the controls do: dials, lists, tabs and the microscope's bench.

import { VIEWS } from "./skeleton.js";
import { pythonCode } from "./python.js";

const BLOCK_FOLLOWS = ["tensor", "rule", "under"]; // with another of these the block is picked anew

export function listenToControls(page, dials, microscope) {
  page.root.addEventListener("input", ({ target }) => dragged(target, page, dials, microscope));
  page.root.addEventListener("change", ({ target }) => changed(target, page, dials));
  page.root.addEventListener("click", ({ target }) => pressed(target.closest("button"), page, dials, microscope));
  page.one(".tabs").addEventListener("keydown", (event) => tabKey(event, page));
  for (const field of page.all(".at")) field.addEventListener("keydown", (event) => entered(event, page));
}

function dragged(at, page, dials, microscope) {
  if (at.dataset.slider) dials.turn(at.dataset.slider, { e4m3_max: page.get("catalog").e4m3[at.value] });
  else if (at.matches(".value-slider")) microscope.change(Number(at.value));
  else if (at.matches(".filter")) page.later();
  else if (at.matches(".at")) delete at.dataset.entered;
}

function changed(at, page, dials) {
  if (at.matches("[type=range]")) return; // "input" came before, and the notice that it left stays
  const { dial, setting, trait, entered } = at.dataset;
  if (entered === at.value) return page.later(); // Enter was before; meanwhile another block may have been chosen
  page.forget();
  if (dial) dials.turn(dial, { [setting]: at.value });
  else if (trait) page.set({ [trait]: at.value, ...(BLOCK_FOLLOWS.includes(trait) ? { block: [] } : {}) });
  else if (at.matches(".measure")) page.later();
  else if (at.matches(".at")) goTo(page);
}

// JupyterLab takes Enter's own effect from a field, so that nothing would change.
function entered(event, page) {
  if (event.key !== "Enter") return;
  event.preventDefault();
  event.stopPropagation();
  event.target.dataset.entered = event.target.value;
  page.forget();
  goTo(page);
}

// To the block that the fields name
function goTo(page) {
  const typed = [".at-token", ".at-column"].map((selector) => page.one(selector).value);
  const [token, column] = typed.map((text) => (text ? Number(text) : NaN));
  if (![token, column].every((v) => Number.isSafeInteger(v) && v >= 0)) {
    const [row, at] = typed.map((text) => text || "none");
    page.nowhere = `no block at token ${row}, column ${at}: both are whole numbers from 0`;
  } else {
    const block = [token, Math.floor(column / 16)];
    if (String(block) !== String(page.get("block"))) page.set({ block });
  }
  page.later();
}

function pressed(button, page, dials, microscope) {
  if (!button) return;
  const { view, step, play } = button.dataset;
  if (view || step) page.forget();
  if (view) page.set({ view });
  else if (step) microscope.step(Number(step));
  else if (play) microscope.play(Number(play));
  else if (button.matches(".copy")) copy(page, dials, microscope);
  else if (button.matches(".reset")) microscope.reset();
}

function copy(page, dials, microscope) {
  const code = pythonCode((name) => page.get(name), page.get("catalog"), (side) => dials.recipeOf(side), microscope.changed());
  const written = navigator.clipboard?.writeText(code) || Promise.reject(new Error("no clipboard"));
  written.then(
    () => page.write(".copied", "copied"),
    () => page.write(".copied", code),
  );
}

// The arrows go round the tabs.
function tabKey(event, page) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  const names = Object.keys(VIEWS);
  page.set({ view: names[(names.indexOf(page.get("view")) + by + names.length) % names.length] });
  page.later();
  queueMicrotask(() => page.one(`button[data-view="${page.get("view")}"]`).focus()); // once it is drawn
  event.preventDefault();
}
