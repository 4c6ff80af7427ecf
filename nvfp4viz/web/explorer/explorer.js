// The explorer: draws the statistics that Python computed, and computes none itself.
//
// render({model, el}) is what anywidget calls. What is missing is asked for with a message {want, id}; the answer
// {kind, id} is kept, and everything is drawn anew.

import { Cache, NO_KERNEL } from "./cache.js";
import { listenToControls } from "./controls.js";
import { Dials } from "./dials.js";
import { TensorList } from "./list.js";
import { Microscope } from "./microscope.js";
import { Output } from "./output.js";
import { Page } from "./page.js";
import { Pictures } from "./pictures.js";
import { provenance, verdict } from "./summary.js";
import { FROM_KERNEL, FROM_PAGE } from "./traits.js";
import { SIDES } from "../lib/sides.js";
import { int } from "../lib/text.js";
import { BLOCK_NARROWEST, drawBlock } from "../views/block.js";
import { drawClipping } from "../views/clipping.js";
import { drawError } from "../views/error.js";
import { drawHeat } from "../views/heat.js";
import { drawScales } from "../views/scales.js";
import { drawTensors, lanesOf } from "../views/tensors.js";

const AHEAD = 8; // neighbours whose statistics are asked for before they are looked at, to each side
const AHEAD_LEAST = 4; // while the nearest so many are there nothing is asked
const AHEAD_MS = 50; // after a drawing: it is on the screen then

export function render({ model, el }) {
  const explorer = new Explorer(model, el);
  explorer.start();
  return () => explorer.stop();
}

class Explorer {
  context = null; // what was drawn last
  drawn = 0; // how often
  width = null; // of its place, once that is known
  block = {}; // what the microscope shows
  controls = ""; // what the controls show

  constructor(model, el) {
    this.model = model;
    this.page = new Page(model, el, () => this.draw());
    this.cache = new Cache(model, (message) => this.receive(message));
    this.dials = new Dials(this.page, this.cache);
    this.list = new TensorList(this.page, this.cache);
    this.microscope = new Microscope(this.page, this.cache);
    const tensors = this.choiceOfTensors();
    const microscope = this.microscope.choiceOfValues();
    const [heat, ranking] = [this.choiceOf("heat", "cells", "name"), this.choiceOf("ranking", "rows", "tensor")];
    this.pictures = new Pictures(this.page, { strip: tensors, tensors, microscope, heat, ranking });
    this.output = new Output(this.page, this.pictures);
    this.page.root.addEventListener("nv4-point", ({ detail }) => this.pictures.pointAt(detail)); // by the page around
    listenToControls(this.page, this.dials, this.microscope);
  }

  start() {
    for (const name of FROM_PAGE) this.model.on(`change:${name}`, this.page.later);
    for (const name of FROM_KERNEL) this.model.on(`change:${name}`, this.readTraits);
    this.resized = new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width; // asked for in every drawing, it would lay out the one before
      this.page.later();
    });
    this.resized.observe(this.page.root);
    if (this.page.get("live")) this.cache.send({ want: "hello" });
    this.draw();
  }

  stop() {
    this.resized.disconnect();
    this.cache.stop();
    this.page.stop();
    for (const name of FROM_PAGE) this.model.off(`change:${name}`, this.page.later);
    for (const name of FROM_KERNEL) this.model.off(`change:${name}`, this.readTraits);
  }

  readTraits = () => {
    this.cache.read();
    this.page.later();
  };

  receive(message) {
    const { page, dials } = this;
    if (message.id === "ahead") return; // nothing of it is shown
    const { notice } = page;
    if (message.kind === "refused") {
      if (message.id !== this.microscope.place) page.notice = message.text; // there it stands while that is looked at
      dials.forget();
    } else if (message.id && page.notice === NO_KERNEL) page.notice = ""; // it was late, not absent
    if (message.id === "recipe") dials.answered(message);
    if (message.kind === "block" && page.notice === notice && this.atBlock()) this.drawMicroscope();
    else page.later();
  }

  // Whether a block is all that can have changed since the last drawing
  atBlock() {
    const { root, queued } = this.page;
    if (queued || !this.context || root.dataset.state !== "ready" || root.classList.contains("no-block")) return false;
    return this.context.tensor === this.page.get("tensor") && this.page.get("view") === "microscope";
  }

  // In the pictures of all tensors a click or an arrow key goes to another.
  choiceOfTensors() {
    return {
      position: () => this.context.order.indexOf(this.page.get("tensor")),
      size: () => this.context.order.length,
      choose: (i) => this.goTo(this.context.order[i]),
      tensor: (i) => this.context.order[i],
      place: (tensor) => this.context.order.indexOf(tensor),
    };
  }

  // In a picture whose parts each stand for a tensor, too.
  choiceOf(picture, parts, name) {
    const all = () => this.pictures.drawn[picture][parts];
    return {
      position: () => all().findIndex((one) => one[name] === this.page.get("tensor")),
      size: () => all().length,
      choose: (i) => all()[i][name] !== undefined && this.goTo(all()[i][name]),
      tensor: (i) => all()[i][name],
      place: (tensor) => all().findIndex((one) => one[name] === tensor),
    };
  }

  goTo(tensor) {
    this.page.forget();
    this.page.set({ tensor, block: [] });
  }

  room() {
    return Math.floor(this.width ?? this.page.root.clientWidth);
  }

  draw() {
    const { page } = this;
    const W = this.room();
    if (W < 50) return;
    this.dials.settle();
    this.dials.sync();
    const now = this.wanted();
    page.mark(page.root, { state: stateOf(now) });
    if (this.drawn && now.busy && page.patient()) return;
    if (!now.busy) page.arrived();
    this.showState(now);
    this.showControls(now);
    this.list.show();
    if (now.sides.some((s) => !s.entry)) return;
    this.context = this.contextOf(now);
    this.drawAllTensors(now.view, W);
    if (now.lacking) return;
    this.drawView(now.view, W);
    const { measured } = now;
    page.fill(".verdict", measured ? verdict(this.context) : "Not measured: only the block below is computed here.");
    page.write("footer", provenance(this.context));
    this.askSweeps(now);
    setTimeout(() => this.askAhead(now), AHEAD_MS);
    const [a, b] = now.sides;
    page.mark(page.root, { tensor: now.tensor, a: a.name, b: b.name, view: now.view, drawn: ++this.drawn });
  }

  // What is to be shown, and how far it is known. What lacks is asked for.
  wanted() {
    const { page, cache } = this;
    const [tensor, view] = [page.get("tensor"), page.get("view")];
    const sides = SIDES.map((side) => this.sideOf(side, tensor));
    const recipes = sides.map((s) => s.name);
    const computes = view === "microscope" && !page.get("live"); // the page itself, without statistics
    const lacking = sides.some((s) => !s.entry || !(s.stats || computes));
    const { skipped } = page.get("catalog").tensors.find((t) => t.name === tensor) || {};
    const asked = recipes.filter((name) => !this.dials.made.has(name)); // of the page's own there are no statistics
    const id = `stats|${tensor}|${asked.join("|")}`;
    const recorded = sides.some((s) => !s.stats && s.entry && !this.dials.made.has(s.name)); // it says so above the block
    if ((lacking || recorded) && !skipped && !cache.unpacking) cache.ask(id, { want: "stats", tensor, recipes: asked });
    const measured = sides.every((s) => s.stats);
    const busy = lacking && !cache.refused.has(id) && !skipped;
    const { done = 0, total = 0 } = page.get("progress");
    return { tensor, view, sides, lacking, measured, skipped, busy, refusal: cache.refused.get(id), done, total };
  }

  sideOf(side, tensor) {
    const name = this.page.get(`recipe_${side}`);
    const entry = this.dials.recipeOf(side);
    return { side, name, entry, stats: this.cache.stats.get(`${tensor}|${name}`) };
  }

  showState(now) {
    const { page } = this;
    page.root.classList.toggle("waits", now.busy);
    page.root.classList.toggle("without", now.lacking && !now.busy);
    page.write(".notice", noticeOf(now, page.notice));
    page.write(".progress", progressOf(now));
  }

  // Only where something of it changed: a browser works at each attribute that is set, even to what it was.
  showControls({ view, lacking, measured }) {
    const { page } = this;
    const unmeasured = !lacking && !measured;
    const given = [page.get("catalog").predicted, ...Object.keys(page.get("output"))].join();
    const key = [view, unmeasured, given, ...["scale", "span", "sort", "rule", "under"].map((name) => page.get(name))].join("|");
    if (key === this.controls) return;
    this.controls = key;
    for (const button of page.all(".tabs button")) {
      const on = button.dataset.view === view;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
      if (button.dataset.view === "output") this.output.dim(button);
    }
    for (const part of page.all("[data-in]")) part.hidden = !part.dataset.in.split(" ").includes(view);
    page.one("svg.strip").parentElement.hidden ||= unmeasured;
    for (const select of page.all("select[data-trait]"))
      if (select.dataset.trait !== "tensor") select.value = page.get(select.dataset.trait);
    for (const radio of page.all("input[data-trait]")) radio.checked = radio.value === page.get(radio.dataset.trait);
  }

  // What the pictures are drawn from.
  contextOf({ tensor, sides }) {
    const { page, cache } = this;
    const [sort, scale, span] = ["sort", "scale", "span"].map((name) => page.get(name));
    const { version } = cache;
    return { ...this.list.filtered(), catalog: page.get("catalog"), sides, tensor, sort, scale, span, version };
  }

  drawAllTensors(view, W) {
    const { context: c, pictures } = this;
    const put = (name, lanes, height) => {
      pictures.put(name, drawTensors(c, W, lanes, height, pictures.drawn[name]), W);
    };
    if (view === "tensors") {
      const measure = this.page.all(".measure:checked")[0]?.value || "error";
      pictures.put("heat", drawHeat(c, W, measure), W);
      put("tensors", lanesOf(c.catalog), 56);
    }
    else if (c.catalog.tensors.length > 1) put("strip", ["sqnr_db", "gain"], 40);
  }

  drawView(view, W) {
    const { context: c, pictures } = this;
    if (view === "overview") this.drawOverview(W);
    if (view === "scales") pictures.put("scales", drawScales(c, W, 460), W);
    if (view === "clipping") pictures.put("clipping", drawClipping(c, W), W);
    if (view === "error") this.drawWholeError(W);
    if (view === "output") this.output.draw(c, W);
    if (view === "microscope") this.drawMicroscope();
  }

  drawOverview(W) {
    const { context: c, pictures } = this;
    const half = W >= 740 ? Math.floor((W - 36) / 2) : W;
    pictures.put("scales", drawScales(c, W, 324), W);
    pictures.put("clipping", drawClipping(c, half), half);
    pictures.put("error", drawError(c, half, 290, false), half);
  }

  drawWholeError(W) {
    const { context: c, cache } = this;
    const recipes = c.sides.map((s) => s.name);
    const id = `attribution|${c.tensor}|${recipes.join("|")}`;
    if (this.page.get("live") && !c.sides.every((s) => s.stats.attribution))
      cache.ask(id, { want: "attribution", tensor: c.tensor, recipes });
    c.parts = cache.answers.get(id)?.shares;
    this.pictures.put("error", drawError(c, W, 460, true), W);
  }

  drawMicroscope() {
    const { context: c, microscope } = this;
    const W = Math.max(this.room(), BLOCK_NARROWEST);
    const recipes = c.sides.map((s) => s.name);
    const inspected = microscope.inspected(c.tensor, recipes);
    const look = this.page.nowhere ? null : inspected;
    const refusal = this.page.nowhere || (look ? "" : microscope.refusal(c.tensor, recipes));
    const { classList } = this.page.root;
    classList.toggle("no-block", !look && Boolean(refusal || !microscope.awaits())); // rather none than another's
    classList.toggle("waits-block", !look);
    if (refusal) this.page.write(".notice", refusal);
    if (!look) return;
    const { inspections } = look;
    const key = [W, microscope.column, microscope.stage, ...recipes].join();
    if (this.block.inspections === inspections && this.block.key === key) return; // a new value awaits its answer
    this.block = { inspections, key };
    this.pictures.put("microscope", drawBlock(c, W, look, microscope.column), W);
    microscope.showSteps(c);
    this.page.mark(this.page.root, { block: [look.token, look.block], drawn: ++this.drawn });
  }

  // A recipe that some tensors lack is measured on all, once the first sweep is done and the dials rest.
  askSweeps({ done, total }) {
    const { lacking } = this.context;
    if (!lacking.length || done < total || !this.page.get("live")) return;
    this.page.debounce("sweep", () => {
      for (const recipe of lacking) this.cache.ask(`sweep|${recipe}`, { want: "sweep", recipe });
    });
  }

  // With its neighbours' statistics in the page an arrow key needs no kernel.
  askAhead({ done, total, sides }) {
    const { order, tensor } = this.context;
    if (done < total || !this.page.root.isConnected) return; // or it was taken away meanwhile
    const at = order.indexOf(tensor);
    const recipes = sides.map((s) => s.name);
    const has = (known, name) => recipes.every((recipe) => known.has(`${name}|${recipe}`));
    const lacks = (name) => has(this.cache.summary, name) && !has(this.cache.stats, name); // measured, and not here
    const within = (n) => order.slice(Math.max(at - n, 0), at + n + 1).filter(lacks);
    if (within(AHEAD_LEAST).length) this.cache.ask("ahead", { want: "ahead", tensors: within(AHEAD), recipes }, false);
  }
}

function stateOf({ lacking, busy }) {
  if (!lacking) return "ready";
  return busy ? "waiting" : "without";
}

function noticeOf({ tensor, skipped, lacking, refusal }, notice) {
  if (skipped) return `${tensor} was skipped: ${skipped}`;
  return lacking && refusal !== undefined ? refusal : notice;
}

function progressOf({ done, total, busy }) {
  if (done < total) return `analysed ${int(done)} of ${int(total)}`;
  return busy ? "computing …" : "";
}
