// The dials of A and B. A recipe that the page does not have by its settings is asked for, one at a time.

import { ONLY_4OVER6 } from "./skeleton.js";
import { SIDES } from "../lib/sides.js";
import { short } from "../lib/text.js";

const STANDARD_SCORE = { err_mode: "MAE", err_use_fast_math: false }; // under standard there is nothing to score

export class Dials {
  turned = {}; // side -> what was changed while an answer was awaited
  asked = ""; // the side that the awaited recipe is for

  constructor(page, cache) {
    this.page = page;
    this.cache = cache;
  }

  recipeOf(side) {
    return this.cache.recipes.get(this.page.get(`recipe_${side}`));
  }

  turn(side, change) {
    this.page.notice = "";
    if (this.cache.waiting.has("recipe")) {
      this.turned[side] = { ...this.turned[side], ...change };
      return;
    }
    const old = this.recipeOf(side)?.settings;
    if (!old) return;
    const settings = { ...old, scored_as: null, ...change };
    if (!settings.four_over_six) Object.assign(settings, STANDARD_SCORE);
    const known = [...this.cache.recipes.values()].find((r) => sameSettings(r.settings, settings));
    if (known) this.page.set({ [`recipe_${side}`]: known.name });
    else this.ask(side, settings);
  }

  // As a control tells it: text that stands for what the setting is now.
  turnTo(side, setting, written) {
    const old = this.recipeOf(side)?.settings[setting];
    let value = written;
    if (typeof old === "boolean") value = written === "true";
    if (typeof old === "number") value = Number(written);
    this.turn(side, { [setting]: value });
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

  forget() {
    this.turned = {};
  }

  // Show both recipes.
  sync() {
    for (const side of SIDES) {
      const entry = this.recipeOf(side);
      if (entry) this.syncSide(side, entry);
    }
  }

  syncSide(side, { name, color, settings }) {
    const { page } = this;
    page.root.style.setProperty(`--${side}`, color);
    page.write(`.name.${side}`, name);
    for (const input of page.all(`input[data-dial="${side}"]`)) {
      const { setting } = input.dataset;
      input.checked = String(settings[setting]) === input.value;
      input.disabled = !settings.four_over_six && ONLY_4OVER6.includes(setting);
    }
    const slider = page.one(`input[data-slider="${side}"]`);
    const held = document.activeElement === slider && !page.notice; // the hand is ahead of the answers
    if (!held) slider.value = page.get("catalog").e4m3.findLastIndex((v) => v <= settings.e4m3_max);
    slider.setAttribute("aria-valuetext", short(settings.e4m3_max));
    page.write(`output.${side}`, short(settings.e4m3_max));
  }
}

const sameSettings = (p, q) => Object.keys(p).every((k) => p[k] === q[k]);
