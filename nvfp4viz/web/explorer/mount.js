// The explorer in a page without Python: mount(el, state, answer). `state` holds the traits (catalog, summary,
// statistics, tensor, recipe_a, ...); `answer` replies to {want, ...}, or gives null for what it has not.

import { render } from "./explorer.js";

const RECORDED_ONLY = "This page holds recorded results only: that needs a notebook, nvfp4viz.explore(activations).";
const FIRST_SHOWN = {
  view: "overview",
  scale: "linear",
  span: "data",
  sort: "layer",
  rule: "gained",
  under: "b",
  block: [],
  summary: {},
  statistics: "",
  progress: {},
  output: { missing: {} },
  live: false,
};

export function mount(el, state, answer = () => null) {
  const model = new Model({ ...FIRST_SHOWN, ...state }, answer);
  return { model, stop: render({ model, el }) };
}

// As much of a widget's model as the explorer needs
class Model {
  listeners = new Map(); // event -> functions

  constructor(traits, answer) {
    this.traits = traits;
    this.reply = answer;
  }

  get(name) {
    return this.traits[name];
  }

  set(name, value) {
    if (this.traits[name] === value) return;
    this.traits[name] = value;
    this.emit(`change:${name}`, value);
  }

  save_changes() {}

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) || []), listener]);
  }

  off(event, listener) {
    const others = (this.listeners.get(event) || []).filter((other) => other !== listener);
    this.listeners.set(event, others);
  }

  emit(event, value) {
    for (const listener of this.listeners.get(event) || []) listener(value);
  }

  send(message) {
    queueMicrotask(() => {
      const reply = this.reply(message) || { kind: "refused", text: RECORDED_ONLY };
      this.emit("msg:custom", { id: message.id, ...reply });
    });
  }
}
