// The dials of A and B. A recipe that the page does not have by its settings is asked for, one at a time.

import { ONLY_4OVER6 } from "./skeleton.js";
import { recipeName, sameSettings, settingsOf, studyOnly } from "../lib/recipe.js";
import { SIDES } from "../lib/sides.js";
import { short } from "../lib/text.js";

const STANDARD_SCORE = { err_mode: "MAE", err_use_fast_math: false }; // under standard there is nothing to score

export class Dials {
  turned = {}; // side -> what was changed while an answer was awaited
  asked = ""; // the side that the awaited recipe is for
  recorded = {}; // side -> the last recipe that the page has statistics of
  made = new Set(); // names of recipes that the page has none of
  turns = 0; // how often one was turned
  synced = {}; // side -> what its dials were set for

  constructor(page, cache) {
    this.page = page;
    this.cache = cache;
  }

  recipeOf(side) {
    const name = this.page.get(`recipe_${side}`);
    const known = this.cache.recipes.get(name);
    const settings = known ? null : settingsOf(name); // as an address may name one that the page makes itself
    return settings && this.computed(settings) ? this.take(name, settings) : known;
  }

  turn(side, change) {
    this.turns++;
    this.page.notice = "";
    if (this.cache.waiting.has("recipe")) {
      this.turned[side] = { ...this.turned[side], ...change };
      return;
    }
    const old = this.recipeOf(side)?.settings;
    if (!old) return;
    const settings = Object.entries(change).reduce((s, [setting, value]) => changedSettings(s, setting, value), old);
    const known = [...this.cache.recipes.values()].find((r) => sameSettings(r.settings, settings));
    if (known) this.page.set({ [`recipe_${side}`]: known.name });
    else if (this.computed(settings)) this.make(side, settings);
    else this.ask(side, settings);
  }

  // Whether the page works out itself what it shows of a recipe: without a kernel, the microscope's block
  computed(settings) {
    const { page } = this;
    return !page.get("live") && page.get("view") === "microscope" && !settings.fast_math;
  }

  // A recipe that the page has no statistics of
  make(side, settings) {
    const { name } = this.take(recipeName(settings), settings);
    this.page.set({ [`recipe_${side}`]: name });
  }

  take(name, settings) {
    const like = [...this.cache.recipes.values()].find(({ settings: s }) => isLike(s, settings));
    const entry = { color: "#7a7a7a", dash: "", marker: "o", ...like, name, settings };
    this.made.add(name);
    this.cache.recipes.set(name, entry);
    return entry;
  }

  // Back to what is recorded, when the page leaves the microscope with a recipe of its own
  settle() {
    const { page, cache } = this;
    const tensor = page.get("tensor");
    if (page.get("live")) return;
    for (const side of SIDES) {
      const name = page.get(`recipe_${side}`);
      const last = this.recorded[side];
      if (cache.stats.has(`${tensor}|${name}`)) this.recorded[side] = name;
      else if (page.get("view") !== "microscope" && last && this.made.has(name)) {
        page.notice = `${name} is not recorded in this page: back to ${last}`;
        page.set({ [`recipe_${side}`]: last });
      }
    }
  }

  // Why a choice shows nothing in a page without a kernel; "" where it does
  lacking(settings) {
    const { page, cache } = this;
    if (page.get("live") || this.computed(settings)) return "";
    const known = [...cache.recipes.values()].find((r) => sameSettings(r.settings, settings));
    if (known && cache.stats.has(`${page.get("tensor")}|${known.name}`)) return "";
    return `nothing is recorded under ${recipeName(settings)}: that needs a notebook with the activations`;
  }

  ask(side, settings) {
    this.cache.refused.delete("recipe");
    this.cache.answers.delete("recipe");
    this.asked = side;
    this.cache.ask("recipe", { want: "recipe", tensor: this.page.get("tensor"), settings });
  }

  // The answer to `ask`: show it, then do what was turned meanwhile.
  answered({ kind, recipes }) {
    if (kind === "stats") this.page.set({ [`recipe_${this.asked}`]: recipes[0].name });
    const next = Object.entries(this.turned);
    this.turned = {};
    for (const [side, change] of next) this.turn(side, change);
  }

  // Greyed, and says why where the pointer rests; a click says it too.
  dim(input, why) {
    const part = input.closest("label") || input;
    if (part.title === why && input.hasAttribute("aria-disabled")) return;
    input.setAttribute("aria-disabled", Boolean(why));
    part.title = why;
  }

  forget() {
    this.turned = {};
  }

  // Show both recipes. Of one colour, as variants of a recipe are, B takes a shade of its own.
  sync() {
    const [a, b] = SIDES.map((side) => this.recipeOf(side)?.color);
    if (a) this.page.root.style.setProperty("--a", a);
    if (b) this.page.root.style.setProperty("--b", a === b ? `color-mix(in oklab, ${b} 50%, var(--ink))` : b);
    for (const side of SIDES) {
      const entry = this.recipeOf(side);
      if (entry) this.syncSide(side, entry);
    }
  }

  syncSide(side, { name, settings }) {
    const { page, cache, turns } = this;
    const slider = page.one(`input[data-slider="${side}"]`);
    const held = document.activeElement === slider && !page.notice; // the hand is ahead of the answers
    if (!held) slider.value = page.get("catalog").e4m3.findLastIndex((v) => v <= settings.e4m3_max);
    const shown = ["live", "view", "tensor"].map((trait) => page.get(trait));
    const key = [name, turns, page.notice, cache.recipes.size, cache.stats.size, ...shown].join("|");
    if (key === this.synced[side]) return;
    this.synced[side] = key;
    page.write(`.name.${side}`, name);
    for (const input of page.all(`input[data-dial="${side}"]`)) {
      const { setting } = input.dataset;
      input.checked = String(settings[setting]) === input.value;
      input.disabled = !settings.four_over_six && ONLY_4OVER6.includes(setting);
      this.dim(input, this.lacking(changedSettings(settings, setting, input.value)));
    }
    const study = studyOnly(settings);
    page.one(`.name.${side}`).classList.toggle("study", Boolean(study));
    if (page.one(`.name.${side}`).title !== study) page.one(`.name.${side}`).title = study;
    this.dim(slider, this.lacking({ ...settings, e4m3_max: 1.125 })); // what no page has recorded
    slider.setAttribute("aria-valuetext", short(settings.e4m3_max));
    page.write(`output.${side}`, short(settings.e4m3_max));
  }
}

// Settings after one dial was turned, `written` as the control has it
function changedSettings(old, setting, written) {
  let value = written;
  if (typeof old[setting] === "boolean") value = written === "true";
  if (typeof old[setting] === "number") value = Number(written);
  const settings = { ...old, scored_as: null, [setting]: value };
  return settings.four_over_six ? settings : { ...settings, ...STANDARD_SCORE };
}

const isLike = (p, q) =>
  p.four_over_six === q.four_over_six &&
  (!p.four_over_six || (p.err_mode === q.err_mode && p.e4m3_max > 298 === q.e4m3_max > 298));
