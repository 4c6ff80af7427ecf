// The explorer in a page without Python: mount(el, state, answer). `state` holds the traits (catalog, summary,
// statistics, tensor, recipe_a, ...); `answer` replies to {want, ...}, or gives null for what cannot be had.

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
  statistics: {},
  progress: {},
  live: false,
};

export function mount(el, state, answer = () => null) {
  const model = new Model({ ...FIRST_SHOWN, ...state }, answer);
  return { model, stop: render({ model, el }) };
}

// As much of a widget's model as the explorer needs
class Model {
  heard = new Map(); // event -> who hears of it

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
    this.tell(`change:${name}`, value);
  }

  save_changes() {}

  on(event, hear) {
    this.heard.set(event, [...(this.heard.get(event) || []), hear]);
  }

  off(event, hear) {
    const others = (this.heard.get(event) || []).filter((other) => other !== hear);
    this.heard.set(event, others);
  }

  tell(event, value) {
    for (const hear of this.heard.get(event) || []) hear(value);
  }

  send(message) {
    queueMicrotask(() => {
      const reply = this.reply(message) || { kind: "refused", text: RECORDED_ONLY };
      this.tell("msg:custom", { id: message.id, ...reply });
    });
  }
}

export default { render };
