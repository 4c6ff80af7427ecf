// What a page knows: statistics by tensor and recipe, blocks, what it waits for and what was refused.

import { unpacked } from "./packed.js";

const NO_ANSWER_MS = 4000;
export const NO_KERNEL = "No kernel answers: this needs a running one, and the activations.";
// Jupyter's server leaves Nagle's algorithm on: once it has said "busy" it holds the answer back until the browser
// acknowledges that, up to 40 ms later. Whatever the browser sends meanwhile carries the acknowledgement.
const NUDGES_MS = [8, 20, 40];

export class Cache {
  stats = new Map(); // "tensor|recipe" -> what page.compact gives
  summary = new Map(); // "tensor|recipe" -> what page.summary gives
  recipes = new Map(); // by name
  answers = new Map(); // by id: picks, blocks and attributions
  waiting = new Map(); // id -> the timer that gives up
  refused = new Map(); // id -> why
  version = 0; // of what is known of all tensors
  packed = ""; // statistics as they came last
  unpacking = false; // they are on their way from there

  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.onMessage = (message) => this.answer(message);
    model.on("msg:custom", this.onMessage);
    model.on("comm_live_update", this.disconnected);
    this.read();
  }

  // Jupyter's word that the kernel went or came: no answer is on its way, so that all is asked anew.
  disconnected = () => {
    for (const timer of this.waiting.values()) clearTimeout(timer);
    this.waiting.clear();
    for (const [id, why] of this.refused) if (why === NO_KERNEL) this.refused.delete(id);
    this.changed({});
  };

  // Take what the traits hold.
  read() {
    this.version++;
    const [summary, { recipes }] = ["summary", "catalog"].map((name) => this.model.get(name));
    this.absorb({ summary, recipes });
    this.unpack(this.model.get("statistics"));
  }

  async unpack(packed) {
    if (!packed || packed === this.packed) return;
    this.packed = packed;
    this.unpacking = true;
    const stats = await unpacked(packed);
    if (packed !== this.packed) return; // others came meanwhile
    this.unpacking = false;
    this.absorb({ stats });
    this.changed({});
  }

  absorb({ stats = {}, summary = {}, recipes = [] }) {
    const columns = this.model.get("catalog").summary_columns;
    for (const r of recipes) this.recipes.set(r.name, r);
    for (const [tensor, recipe, short] of pairs(summary)) this.note(`${tensor}|${recipe}`, short);
    for (const [tensor, recipe, s] of pairs(stats)) {
      const key = `${tensor}|${recipe}`;
      this.stats.set(key, s);
      const short = columns.map((c) => (s.rates[c] ? s.rates[c][0] : s[c]));
      if ("predicted_kl" in s) short.push(s.predicted_kl);
      this.note(key, short);
    }
  }

  note(key, short) {
    if (!this.summary.has(key)) this.version++;
    this.summary.set(key, short);
  }

  // Ask once, until it is answered; what nobody waits for is not `hurried`.
  ask(id, message, hurried = true) {
    if (this.waiting.has(id) || this.refused.has(id) || this.answers.has(id)) return;
    const live = this.model.get("live"); // else the page answers itself, at once
    const late = live && setTimeout(() => this.answer({ kind: "refused", id, text: NO_KERNEL }), NO_ANSWER_MS);
    this.waiting.set(id, late);
    const sent = this.send({ ...message, id });
    if (!sent) queueMicrotask(() => this.answer({ kind: "refused", id, text: NO_KERNEL }));
    if (!sent || !hurried || !live) return;
    const nudge = () => this.waiting.has(id) && this.send({ want: "nothing" });
    for (const ms of NUDGES_MS) setTimeout(nudge, ms);
  }

  // Whether it is on its way: Jupyter throws where the kernel is gone
  send(message) {
    try {
      this.model.send(message);
      return true;
    } catch {
      return false;
    }
  }

  answer(message) {
    const { kind, id = "" } = message;
    clearTimeout(this.waiting.get(id));
    if (kind === "working") return; // a kernel took it up, and may take its time
    this.waiting.delete(id);
    if (kind !== "refused") this.refused.delete(id);
    else if (id) this.refused.set(id, message.text);
    if (kind === "stats") this.absorb(message);
    else if (kind !== "refused") this.answers.set(id, message);
    this.changed(message);
  }

  stop() {
    this.packed = null;
    this.model.off("msg:custom", this.onMessage);
    this.model.off("comm_live_update", this.disconnected);
    for (const timer of this.waiting.values()) clearTimeout(timer);
    this.waiting.clear();
  }
}

// {tensor: {recipe: value}} as [tensor, recipe, value]...
export function* pairs(rows) {
  for (const [tensor, row] of Object.entries(rows))
    for (const [recipe, value] of Object.entries(row)) yield [tensor, recipe, value];
}
