// The microscope: which block lies under it, and one value of it that can be changed.

import { patch } from "./patch.js";
import { own } from "../lib/own.js";
import { int, num, short } from "../lib/text.js";
import { blockSteps, STAGES } from "../views/steps.js";

export class Microscope {
  column = 0; // the value that is chosen
  values = null; // the block's 16, when one was changed
  of = ""; // the block that they belong to
  asked = ""; // the last question about changed values
  look = null; // what was drawn last
  place = ""; // the question about the block as it is stored
  inspecting = null; // tensor, [token, block] and recipes that it was asked by
  stage = 0; // the step that is played, 0 for all at once
  steps = []; // the elements of their table

  constructor(page, cache) {
    this.page = page;
    this.cache = cache;
  }

  // Blocks worth a look, by the rule that was chosen
  picksId() {
    const { page } = this;
    return `picks|${page.get("tensor")}|${page.get(`recipe_${page.get("under")}`)}|${page.get("rule")}`;
  }

  picks() {
    return this.cache.answers.get(this.picksId());
  }

  askPicks() {
    const { page } = this;
    const recipe = page.get(`recipe_${page.get("under")}`);
    this.cache.ask(this.picksId(), { want: "picks", tensor: page.get("tensor"), recipe, rule: page.get("rule") });
  }

  // [token, block]: the one that was chosen, else the first pick.
  here() {
    const chosen = this.page.get("block");
    if (chosen.length) return chosen;
    const first = this.picks()?.blocks[0];
    return first ? [first.token, first.block] : null;
  }

  // Among the picks, -1 where it is none of them
  indexHere(blocks) {
    const at = this.here();
    return blocks.findIndex((pick) => at && pick.token === at[0] && pick.block === at[1]);
  }

  step(by) {
    const blocks = this.picks()?.blocks || [];
    if (!blocks.length) return;
    const next = blocks[(this.indexHere(blocks) + by + blocks.length) % blocks.length];
    this.page.set({ block: [next.token, next.block] });
  }

  change(value) {
    if (!this.look) return;
    this.values = [...(this.values || this.look.stored)];
    this.values[this.column] = value;
    this.showValue(this.look, this.inspecting[2], this.look.block);
    // what was asked is drawn when it is answered; what had been answered before, now
    if (this.inspect(...this.inspecting).inspections !== this.look.inspections) this.page.later();
  }

  // To the next step of quantizing, or back; past the last all are shown.
  play(by) {
    this.stage = (this.stage + by + STAGES.length + 1) % (STAGES.length + 1);
    this.page.later();
  }

  showSteps(context) {
    const { page, stage, look, column } = this;
    this.steps = patch(page.one(".stages"), blockSteps(context, look, column, stage), this.steps);
    page.write(".stage", stage ? `step ${stage} of ${STAGES.length}: ${STAGES[stage - 1]}` : "all steps");
    page.mark(page.one("svg.microscope"), { stage });
  }

  // The block in which a value was changed, under both recipes; nothing where none is, or another view is shown
  changed() {
    const { look, values, page } = this;
    if (!values || !look || page.get("view") !== "microscope") return null;
    return { values, inspections: this.inspecting[2].map((name) => look.inspections[name]) };
  }

  reset() {
    this.values = null;
    this.page.later();
  }

  // A click or an arrow key in the picture chooses a value.
  choiceOfValues() {
    return {
      position: () => this.column,
      size: () => 16,
      choose: (column) => {
        this.column = column;
        this.page.later();
      },
    };
  }

  // What to draw: the block under both recipes, or null while it is awaited.
  inspected(tensor, recipes) {
    this.pick();
    const at = this.here();
    this.showPicked();
    if (!at) return null;
    const [token, block] = at;
    this.inspecting = [tensor, at, recipes];
    const answer = this.inspect(tensor, at, recipes);
    if (!answer || !recipes.every((name) => own(answer.inspections, name))) return null;
    this.showValue(answer, recipes, block);
    this.showPlace(answer, token, block);
    this.look = { ...answer, token, block };
    return this.look;
  }

  // Ask for picks, and choose the first: it stays while dials turn.
  pick() {
    const picks = this.picks();
    const first = picks?.blocks[0];
    const pinned = this.page.get("block").length > 0;
    if (!pinned && first) this.page.set({ block: [first.token, first.block] });
    if (picks) return;
    if (pinned) this.page.debounce("picks", () => this.askPicks());
    else this.askPicks();
  }

  // The block as stored, or with the changed values as far as they were answered
  inspect(tensor, at, recipes) {
    const { cache } = this;
    const of = `block|${tensor}|${at.join()}`;
    if (this.of !== of) Object.assign(this, { of, values: null });
    const id = this.idOf(tensor, at, recipes);
    const message = { want: "block", tensor, block: at, recipes };
    this.place = id;
    const stored = cache.answers.get(id);
    if (!stored) cache.ask(id, message);
    const answer = this.values ? this.edited(`${id}|${this.values.join()}`, message) : stored;
    return answer && { ...answer, stored: (stored || answer).stored };
  }

  // Why there is no block, "" while there is one or it is awaited
  refusal(tensor, recipes) {
    const at = this.here();
    return (at && this.cache.refused.get(this.idOf(tensor, at, recipes))) || "";
  }

  // Whether a block may still come
  awaits() {
    return this.cache.waiting.has(this.here() ? this.place : this.picksId());
  }

  idOf(tensor, at, recipes) {
    return `block|${tensor}|${at.join()}|${recipes.join("|")}`;
  }

  // Asked one at a time; the last value wins.
  edited(id, message) {
    const { cache, values } = this;
    const answer = cache.answers.get(id);
    if (answer) return answer;
    if (!cache.waiting.has(this.asked)) {
      cache.answers.delete(this.asked);
      this.asked = id;
      cache.ask(id, { ...message, values });
    }
    return this.look;
  }

  showPicked() {
    this.page.write(".picked", this.pickedText());
  }

  pickedText() {
    const picks = this.picks();
    if (!picks && this.cache.refused.has(this.picksId())) return this.page.get("live") ? "no answer" : "not in this page";
    if (!picks) return "looking …";
    const { blocks, note } = picks;
    if (!blocks.length) return note;
    return `${1 + this.indexHere(blocks) || "–"} of ${blocks.length}${note ? ", " + note : ""}`;
  }

  showValue({ inspections, stored }, recipes, block) {
    const { page, column } = this;
    const value = (this.values || stored)[column];
    const slider = page.one(".value-slider");
    const reach = 1.25 * Math.max(...recipes.map((name) => num(inspections[name].amax)), 1e-30);
    if (document.activeElement !== slider) setSlider(slider, reach, value);
    page.write(".value-name", `value ${block * 16 + column}`);
    page.write(".value-now", short(value) + (this.values ? `, stored ${short(stored[column])}` : ""));
    page.one(".reset").disabled = !this.values;
  }

  showPlace({ token_text }, token, block) {
    const first = block * 16;
    this.fillIn(".at-token", token);
    this.fillIn(".at-column", first);
    const quoted = token_text ? ` “${token_text.trim()}”` : "";
    this.page.write(".where", `token ${int(token)}${quoted}, columns ${int(first)}–${int(first + 15)}`);
  }

  // Not while someone types there
  fillIn(selector, value) {
    const input = this.page.one(selector);
    if (document.activeElement !== input) input.value = value;
  }
}

// Where it does not stand so yet, for a browser lays it out anew each time
function setSlider(slider, reach, value) {
  if (slider.max !== String(reach)) Object.assign(slider, { min: -reach, max: reach, step: reach / 500 });
  if (slider.value !== String(value)) slider.value = value;
}
