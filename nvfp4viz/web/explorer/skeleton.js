// What stands on the page: controls, and the figures that are drawn into.

import { SIDES } from "../lib/sides.js";
import { esc } from "../lib/text.js";

export const VIEWS = {
  overview: "Overview",
  scales: "Block scales",
  clipping: "Clipping",
  error: "Error",
  tensors: "All tensors",
  microscope: "Microscope",
  output: "Output",
};
// caption, setting, [value, label]...
const DIALS = [
  ["kind", "four_over_six", [false, "standard"], [true, "4over6"]],
  ["ceiling", "e4m3_max", [448, "448"], [256, "256"]],
  ["error mode", "err_mode", ["MAE", "MAE"], ["MSE", "MSE"]],
  ["scored", "err_use_fast_math", [false, "exact"], [true, "fp16"]],
  ["FP32 scale per", "per_token", [true, "token"], [false, "tensor"]],
  ["arithmetic", "fast_math", [false, "strict"], [true, "fast"]],
];
export const ONLY_4OVER6 = ["err_mode", "err_use_fast_math"]; // they say nothing under standard
const ORDERS = { layer: "by layer", error: "by error", gain: "by B − A" };
const BY_EFFECT = { effect: "by predicted KL" }; // where the model was recorded with sensitivity
const AXES = { linear: "linear", log: "log" };
const HEATS = { error: "error", gain: "B − A", saturation: "saturation" };
const SPANS = { full: "all of E4M3", data: "in use" };

const options = (named) =>
  Object.entries(named)
    .map(([value, shown]) => `<option value="${esc(value)}">${esc(shown)}</option>`)
    .join("");

function radios(group, label, choices, at, first = null) {
  const one = ([value, shown]) =>
    `<label><input type="radio" name="${group}" value="${esc(value)}" ${at}${value === first ? " checked" : ""}><span>${esc(shown)}</span></label>`;
  return `<span role="radiogroup" aria-label="${esc(label)}" class="choice">${choices.map(one).join("")}</span>`;
}

// One recipe's dials. The ceiling has a slider too, over E4M3's values from 1 to 448.
function dials(uid, side, catalog) {
  const letter = side.toUpperCase();
  const slider =
    `<input type="range" data-slider="${side}" min="${catalog.e4m3.indexOf(1)}" max="126" ` +
    `aria-label="${letter}: ceiling, any E4M3 value"><output class="${side}"></output>`;
  const cells = DIALS.map(([caption, setting, ...choices]) => {
    const at = `data-dial="${side}" data-setting="${setting}"`;
    const dial = radios(`${uid}-${side}-${setting}`, `${letter}: ${caption}`, choices, at);
    return `<td data-caption="${caption}">${dial}${setting === "e4m3_max" ? slider : ""}</td>`;
  });
  return (
    `<tr><th scope="row" class="${side}-ink">${letter}</th>${cells.join("")}` +
    `<td class="name ${side} ${side}-ink"></td></tr>`
  );
}

const canvas = (name) => `<svg class="${name}" role="img" tabindex="0"></svg>`;
const marked = (name) => `<i class="here"></i>${canvas(name)}`; // with a band behind the tensor that is shown
const caption = (title, legend, extra = "") =>
  `<figcaption><b>${title}</b> <span class="soft">${legend}</span>${extra}</figcaption>`;

const key = (line, words) => `<span><i class="key ${line}"></i> ${words}</span>`;
const FRONTIER_KEYS =
  key("one", "on the text it was chosen on") + key("two", "on other text") + key("within", "95 % interval");
const DRIFT_KEYS =
  key("one", "all before it, too") + key("local", "this layer alone") + key("floor", "floor: bf16 against fp32");
// A part of the view "Output"; where it was not given, why it is empty
const part = (name, title, legend, inner) =>
  `<figure data-in="output" data-part="${name}">${caption(title, legend)}<p class="why soft"></p>${inner}</figure>`;
const words = (name) => `<span class="${name}"></span>`;
const OUTPUT =
  `<p class="effects" data-in="output"></p>` +
  part("ranking", "Tensor error beside output error", words("ranking-words"), canvas("ranking")) +
  part("frontier", "Keeping layers", FRONTIER_KEYS, `<p class="frontier-words"></p>` + canvas("frontier") + `<p class="frontier-about soft"></p>`) +
  part("drift", "Where the error goes", DRIFT_KEYS, canvas("depth") + canvas("drift")) +
  part("prompts", "The prompts that change most", "", `<div class="prompt-table"></div>`);

export function skeleton(uid, catalog) {
  const heads = DIALS.map(([name]) => `<th scope="col">${name}</th>`).join("");
  const tabs = Object.entries(VIEWS).map(([view, shown]) => `<button role="tab" data-view="${view}">${shown}</button>`);
  const axis = radios(`${uid}-scale`, "count axis", Object.entries(AXES), 'data-trait="scale"');
  const span = radios(`${uid}-span`, "scales shown", Object.entries(SPANS), 'data-trait="span"');
  const heat = radios(`${uid}-heat`, "shown by colour", Object.entries(HEATS), 'class="measure"', "error");
  const letters = SIDES.map((side) => [side, side.toUpperCase()]);
  const under = radios(`${uid}-under`, "recipe that ranks", letters, 'data-trait="under"');
  const legend = "blocks an octave of their E4M3 scale; solid mapped their largest value to 6, hollow to 4";
  return `
<div class="top">
  <label>tensor <select class="tensor" data-trait="tensor"></select></label>
  <label>find <input class="filter" type="search" placeholder="part of a name" size="12"></label>
  <span class="matches soft"></span>
  <label>order <select data-trait="sort">${options({ ...ORDERS, ...(catalog.predicted && BY_EFFECT) })}</select></label>
  <span class="progress soft" role="status"></span>
</div>
<table class="dials">
  <thead><tr><td></td>${heads}<th scope="col">recipe</th></tr></thead>
  <tbody>${SIDES.map((side) => dials(uid, side, catalog)).join("")}</tbody>
</table>
<p class="notice" role="alert"></p>
<p class="verdict" aria-live="polite"></p>
<figure data-in="overview scales clipping error microscope output">${marked("strip")}</figure>
<div class="tabs" role="tablist" aria-label="view">${tabs.join("")}</div>
<figure data-in="overview scales">
  ${caption("Block scales", legend, `<span class="aside">${axis} ${span}</span>`)}${canvas("scales")}
</figure>
<div class="pair">
  <figure data-in="overview clipping">
    ${caption("Clipping", "and its neighbours, as shares")}${canvas("clipping")}
  </figure>
  <figure data-in="overview error">${caption("Error", "of the decoded tensor")}${canvas("error")}</figure>
</div>
<figure data-in="tensors">
  ${caption("Layers by kinds", "click one, or use the arrow keys", `<span class="aside">${heat}</span>`)}${canvas("heat")}
</figure>
<figure data-in="tensors">${caption("All tensors", "click one, or use the arrow keys")}${marked("tensors")}</figure>
<figure data-in="microscope" class="wide">
  <figcaption><b>Microscope</b> <span class="where soft"></span></figcaption>
  <div class="bench">
    <label>blocks with <select data-trait="rule">${options(catalog.rules)}</select></label> under ${under}
    <button data-step="-1" aria-label="previous block">‹</button><span class="picked"></span
    ><button data-step="1" aria-label="next block">›</button>
    <label>token <input class="at at-token" type="number" min="0"></label>
    <label>column <input class="at at-column" type="number" min="0" step="16"></label>
  </div>
  ${canvas("microscope")}
  <div class="bench value-bench">
    <label><span class="value-name"></span> <input class="value-slider" type="range" step="any"></label>
    <output class="value-now"></output><button class="reset">as stored</button>
    <span class="player"><button data-play="-1" aria-label="step before">‹</button><span class="stage" role="status"></span
    ><button data-play="1" aria-label="next step">›</button></span>
  </div>
  <div class="stages"></div>
</figure>
${OUTPUT}
<div class="announced" aria-live="polite"></div>
<footer></footer>
<div class="after"><button class="copy">copy as Python</button><span class="copied soft" role="status"></span></div>`;
}
