// The views in node alone: what they draw of statistics that Python wrote to the file named by NVFP4VIZ_CONTEXT.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { fixed, percent, short, signed, esc, ticks, nearest, counts, int } from "../../nvfp4viz/web/lib/text.js";
import { tag, text } from "../../nvfp4viz/web/lib/svg.js";
import { markedName, recipeName, sameSettings, settingsOf, studyOnly } from "../../nvfp4viz/web/lib/recipe.js";
import { inspectBlock } from "../../nvfp4viz/web/lib/quantize.js";
import { hashOf, stateInHash } from "../../nvfp4viz/web/report/state.js";
import { drawHeat } from "../../nvfp4viz/web/views/heat.js";
import { blockSteps, STAGES, whyWon } from "../../nvfp4viz/web/views/steps.js";
import { drawScales } from "../../nvfp4viz/web/views/scales.js";
import { drawClipping } from "../../nvfp4viz/web/views/clipping.js";
import { drawError } from "../../nvfp4viz/web/views/error.js";
import { drawDepth, drawDriftMap } from "../../nvfp4viz/web/views/drift.js";
import { drawFrontier, drawRanking } from "../../nvfp4viz/web/views/output.js";
import { drawTensors, lanesOf } from "../../nvfp4viz/web/views/tensors.js";
import { BLOCK_NARROWEST, drawBlock } from "../../nvfp4viz/web/views/block.js";

const { contexts, look, outputs } = JSON.parse(fs.readFileSync(process.env.NVFP4VIZ_CONTEXT, "utf8"));
const WIDTHS = [360, 400, 640, 1200];

// What lists and maps need that JSON has not
function context(name) {
  const c = contexts[name];
  const summaryOf = (tensor, recipe) => c.summary[tensor]?.[recipe];
  const layerOf = new Map(c.catalog.tensors.map((t) => [t.name, t.layer]));
  return { scale: "linear", span: "data", sort: "layer", version: 1, ...c, summaryOf, layerOf };
}

// The data attributes of all elements that have one of this name
function marks(svg, name) {
  const tags = [...svg.matchAll(/<\w+ [^>]*>/g)].map(([tag]) => tag).filter((tag) => tag.includes(` data-${name}=`));
  return tags.map((tag) => Object.fromEntries([...tag.matchAll(/ data-([a-z]+)="([^"]*)"/g)].map(([, k, v]) => [k, v])));
}

function wellFormed({ out, H, label }) {
  assert.ok(!/NaN|undefined|Infinity/.test(out + label), (out + label).match(/.{60}(NaN|undefined|Infinity).{20}/)?.[0]);
  assert.ok(H > 0 && label.length > 10);
  const open = [];
  for (const [, end, name, alone] of out.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g))
    if (!end && !alone) open.push(name);
    else if (end) assert.equal(open.pop(), name);
  assert.deepEqual(open, []);
}

for (const name of Object.keys(contexts))
  for (const W of WIDTHS) {
    const c = context(name);
    test(`every view draws ${name} at ${W}`, () => {
      for (const scale of ["linear", "log"])
        for (const span of ["data", "full"]) wellFormed(drawScales({ ...c, scale, span }, W, 320));
      wellFormed(drawClipping(c, W));
      wellFormed(drawError(c, W, 300, false));
      wellFormed(drawError(c, W, 460, true));
      for (const sort of ["layer", "error", "gain"]) wellFormed(drawTensors({ ...c, sort }, W, lanesOf(c.catalog), 56));
      for (const picture of [drawScales(c, W, 320), drawClipping(c, W), drawError(c, W, 460, true)])
        for (const stop of picture.stops) assert.ok(picture.point(stop).label.length > 2);
    });
  }

test("block scales are the histogram", () => {
  const c = context("real");
  for (const { side, stats } of c.sides) {
    const [drawn] = marks(drawScales(c, 900, 320).out, "scales").filter((m) => m.side === side);
    const [six, four] = [counts(stats.six), counts(stats.four)];
    const bytes = [...new Set([...six.keys(), ...four.keys()])].filter((b) => six.get(b) || four.get(b));
    const wanted = bytes.sort((p, q) => p - q).map((byte) => [byte, six.get(byte) || 0, four.get(byte) || 0]);
    assert.deepEqual(JSON.parse(drawn.scales), wanted);
  }
});

test("rates stand with their counts", () => {
  const c = context("real");
  const drawn = marks(drawClipping(c, 700).out, "rate");
  for (const { side, stats } of c.sides)
    for (const [rate, [value, count, of]] of Object.entries(stats.rates)) {
      const m = drawn.find((one) => one.side === side && one.rate === rate);
      if (m) assert.deepEqual([+m.value, +m.count, +m.of], [value, count, of]);
    }
  assert.ok(drawn.length >= 12);
});

test("a rate that was not measured is no 0", () => {
  const c = context("real");
  const without = (stats) => ({ ...stats, rates: { ...stats.rates, four_saturated_chosen: undefined } });
  const sides = c.sides.map((s, k) => (k ? s : { ...s, stats: without(s.stats) }));
  const picture = drawClipping({ ...c, sides }, 700);
  wellFormed(picture);
  const drawn = marks(picture.out, "rate").filter((m) => m.rate === "four_saturated_chosen");
  assert.deepEqual(drawn.map((m) => m.side), ["b"]);
  assert.match(picture.out, /A not measured   ·   B \d/);
  assert.match(picture.label, /4 saturates, chosen A –, B \d/);
});

test("gains are B's SQNR less A's, and a click goes to the tensor under it", () => {
  const c = context("real");
  const picture = drawTensors(c, 900, ["sqnr_db", "gain"], 40);
  const [a, b] = c.sides.map((s) => s.name);
  for (const { tensor, gain } of marks(picture.out, "gain"))
    assert.equal(+gain, c.summaryOf(tensor, b)[0] - c.summaryOf(tensor, a)[0]);
  assert.equal(picture.at(0), 0);
  assert.equal(picture.at(899), c.order.length - 1);
  assert.equal(drawTensors(c, 900, ["sqnr_db", "gain"], 40, picture).out, picture.out);
});

test("the block stands as it was inspected", () => {
  const c = context("real");
  for (const W of [BLOCK_NARROWEST, 900]) {
    const picture = drawBlock(c, W, look, 3);
    wellFormed(picture);
    for (const { side, name } of c.sides) {
      const { choice, byte, candidates } = look.inspections[name];
      const chosen = marks(picture.out, "choice").find((m) => m.side === side);
      assert.deepEqual([+chosen.choice, +chosen.byte], [choice, byte]);
      for (const k of candidates) {
        const [falls] = marks(picture.out, "decoded").filter((m) => m.side === side && +m.to === k.to);
        assert.deepEqual(falls.decoded.split(" ").map((v) => +v + 0), k.decoded.map((v) => v + 0)); // -0 is written 0
      }
    }
    assert.equal(picture.at(W - 1, picture.H - 5), 15);
  }
});

test("a difference of nearly nothing is no full bar", () => {
  const c = context("real");
  const [a, b] = c.sides.map((s) => s.name);
  const nearly = (tensor, recipe) => [20 + (recipe === b && tensor === c.tensor ? 0.0004 : 0), 0, 0, 0, 0, 0];
  const picture = drawTensors({ ...c, summaryOf: nearly }, 900, ["gain"], 40);
  const heights = [...picture.out.matchAll(/<rect [^>]*height="([\d.]+)"[^>]*class="bar/g)].map(([, h]) => +h);
  assert.ok(a !== b && heights.length === c.order.length && Math.max(...heights) < 4, String(heights));
});

test("a number in a name is not cut at its dot", () => {
  const c = context("real");
  const order = ["scaled x1.26"];
  const layerOf = new Map([[order[0], null]]);
  assert.match(drawTensors({ ...c, order, layerOf }, 400, ["sqnr_db"], 40).out, />scaled x1\.26</);
});

test("equal shares an octave have equal heights", () => {
  const c = context("real");
  const bytes = Array.from({ length: 24 }, (_, i) => 64 + i); // three octaves
  const flat = bytes.map((b) => 2000 * Math.log2((c.catalog.e4m3[b] + c.catalog.e4m3[b + 1]) / (c.catalog.e4m3[b - 1] + c.catalog.e4m3[b])));
  const sides = c.sides.map((s) => ({ ...s, stats: { ...s.stats, six: [64, ...flat], four: [] } }));
  const [, bars] = /<path d="([^"]*)" class="six a" data-side/.exec(drawScales({ ...c, sides }, 900, 320).out);
  const heights = [...bars.matchAll(/v-?([\d.]+)/g)].map(([, h]) => +h);
  assert.equal(heights.length, 24);
  assert.ok(Math.max(...heights) - Math.min(...heights) < 0.1, String(heights));
});

test("what the last bar of a histogram takes in is said", () => {
  const c = context("real");
  const sides = c.sides.map((s) => ({ ...s, stats: { ...s.stats, token_nmse: [0, 5, 3] } }));
  const picture = drawError({ ...c, sides }, 700, 300, false);
  assert.match(picture.out, /the last bar: 71\.\d dB or better, up to no error/);
  assert.match(picture.point(picture.stops.at(-1)).label, /or better/);
});

test("a 4 that saturates is said to saturate, and how often it is chosen all the same", () => {
  const c = context("real");
  const stats = (s) => ({ ...s.stats, rates: { ...s.stats.rates, four_saturated: [0.1, 100, 1000], four_saturated_chosen: [0.005, 5, 1000] } });
  const drawn = drawScales({ ...c, sides: c.sides.map((s) => ({ ...s, stats: stats(s) })) }, 900, 320).out;
  assert.match(drawn, /its 4 saturates, chosen all the same in 5\.00 %/);
  const all = drawn + drawClipping(c, 700).out + drawBlock(c, 900, look, 0).out;
  assert.doesNotMatch(all, /cannot|could not|does not fit/);
});

test("layers stand by kinds, and a click goes to the worst of a cell", () => {
  const c = context("real");
  for (const measure of ["error", "gain", "saturation"]) {
    const picture = drawHeat(c, 700, measure);
    wellFormed(picture);
    assert.deepEqual(picture.cells.map((cell) => cell.name).sort(), [...c.order].sort());
    for (const stop of picture.stops) assert.ok(picture.point(stop).label.includes(picture.cells[stop].name));
  }
  const tensors = [0, 1].flatMap((layer) => [0, 1, 2].map((e) => ({ name: `model.layers.${layer}.mlp.experts.${e}.down_proj`, layer })));
  const layerOf = new Map(tensors.map((t) => [t.name, t.layer]));
  const summaryOf = (name) => [name.includes("experts.1") ? 10 : 20, 0, 0, 0, 0, 0];
  const experts = { ...c, catalog: { ...c.catalog, tensors }, order: tensors.map((t) => t.name), layerOf, summaryOf };
  const { cells } = drawHeat(experts, 700, "error");
  assert.deepEqual(cells.map((cell) => [cell.kind, cell.column, cell.many, cell.name.includes("experts.1")]), [
    ["mlp.experts.down_proj", 0, 3, true],
    ["mlp.experts.down_proj", 1, 3, true],
  ]);
});

test("the map and the strip show what is found, the worst kind first where the strip is sorted", () => {
  const c = context("real");
  const [first, second] = c.order;
  const some = { ...c, order: [second], filter: "x", tensor: second };
  assert.deepEqual(drawHeat(some, 700, "error").cells.map((cell) => cell.name), [second]);
  assert.equal(drawTensors(some, 700, ["sqnr_db"], 40).stops.length, 1);
  const whole = drawTensors(c, 700, ["sqnr_db"], 40);
  assert.notEqual(drawTensors(some, 700, ["sqnr_db"], 40, whole).out, whole.out);
  const db = (tensor) => (tensor === second ? 10 : 20);
  const sorted = { ...c, sort: "error", summaryOf: (tensor) => [db(tensor), 0, 0, 0, 0, 0] };
  assert.equal(drawHeat(sorted, 700, "error").cells[0].name, second);
  assert.equal(drawHeat({ ...sorted, sort: "layer" }, 700, "error").cells[0].name, first);
});
test("a block is played through in steps", () => {
  const c = context("real");
  const whole = blockSteps(c, look, 3, 0);
  assert.ok(!/NaN|undefined|later/.test(whole));
  assert.equal(whole.match(/<tr/g).length, STAGES.length + 1);
  assert.equal(blockSteps(c, look, 3, 2).match(/class="later"/g).length, STAGES.length - 2 + 1);
  for (const { name } of c.sides) assert.match(whyWon(look.inspections[name], look.block), /^(6|4) won|tie/);
});

test("recipes have the names that Python gives them", () => {
  for (const { name, settings } of contexts.real.catalog.recipes) {
    assert.equal(recipeName(settings), name);
    assert.ok(sameSettings(settingsOf(name), settings));
    assert.equal(studyOnly(settings), "");
  }
  for (const name of ["4/6-mse-176-fp16err-tensor-fast", "standard-256", "4/6-mae-448-scored256"])
    assert.equal(recipeName(settingsOf(name)), name);
  const why = (name) => studyOnly(settingsOf(name)); // in the words of `study_only` in Python
  const four = "FlashInfer has 448 and 256";
  assert.equal(why("standard-256"), "no engine has the ceiling 256, FlashInfer has 448 without 4over6: to study only");
  assert.equal(why("4/6-mae-300"), `no engine has the ceiling 300, ${four}: to study only`);
  assert.equal(why("4/6-mse-265"), `no engine has the ceiling 265, ${four}: did you mean 256?`);
  assert.equal(why("4/6-mse-288"), `no engine has the ceiling 288, ${four}: to study only`);
  assert.match(why("4/6-mae-448-scored256"), /made for 448, scored for 256/);
  assert.equal(markedName("4/6-mae-300", settingsOf("4/6-mae-300")), "4/6-mae-300 (study only)");
  assert.equal(settingsOf("nonsense"), null);
});

test("what is shown stands in the address, and only what there is comes back", () => {
  const { catalog, tensor } = contexts.real;
  const [a, b] = catalog.recipes.map((r) => r.name);
  const shown = { tensor, recipe_a: a, recipe_b: b, view: "error", scale: "log", span: "full", sort: "gain", under: "a" };
  const data = { catalog, stats: { [tensor]: {} } };
  const all = { ...shown, rule: Object.keys(catalog.rules)[0], block: [3, 7] };
  assert.deepEqual(stateInHash(hashOf((name) => all[name]), data), all);
  assert.deepEqual(stateInHash("#tensor=__proto__&recipe_a=%3Cb%3E&view=x&block=1,-2&rule=toString", data), {});
  assert.deepEqual(stateInHash("", data), {});
});

test("a recipe that no engine runs is marked where its block and its scales are drawn", () => {
  const c = context("real");
  const [a, b] = c.sides;
  const study = { ...c, sides: [a, { ...b, entry: { ...b.entry, settings: { ...b.entry.settings, e4m3_max: 300 } } }] };
  const marked = `${b.name} (study only)`;
  for (const W of [BLOCK_NARROWEST, 900]) assert.ok(drawBlock(study, W, look, 3).out.includes(marked));
  assert.ok(drawScales(study, 900, 320).label.includes(marked));
  assert.ok(!drawBlock(c, 900, look, 3).out.includes("study") && !drawScales(c, 900, 320).label.includes("study"));
});

test("numbers read as in print", () => {
  assert.equal(fixed(-0.001), "0.00");
  assert.equal(fixed("inf"), "∞");
  assert.equal(fixed("nan"), "–");
  assert.equal(signed(1.5), "+1.50");
  assert.equal(signed(-1.5), "−1.50");
  assert.equal(short(1.23456e-9), "1.235×10⁻⁹");
  assert.equal(short(0), "0");
  assert.equal(percent(0), "0 %");
  assert.equal(percent(0.00001), "0.001 %");
  assert.equal(int(1234567), "1,234,567");
  assert.deepEqual(ticks(0, 10, 5), [0, 2, 4, 6, 8, 10]);
  assert.equal(nearest([1, 5, 9], (v) => Math.abs(v - 6)), 5);
});

test("names of strangers stay text", () => {
  assert.equal(esc(`<a b="c">'&'\u202e\u0007`), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;&#39;\ufffd\ufffd");
  assert.equal(tag("g", { "data-x": `"><script>` }), `<g data-x="&quot;&gt;&lt;script&gt;"></g>`);
  assert.equal(text(1, 2, "<b>"), '<text x="1" y="2" class="">&lt;b&gt;</text>');
});

const pointed = (picture) => picture.stops.map((stop) => picture.point(stop));

for (const W of WIDTHS)
  test(`the output is drawn at ${W}`, () => {
    const { ranking, frontier, drift } = outputs.all;
    const pictures = [drawRanking(context("real"), W, ranking), drawFrontier(W, frontier), drawDepth(W, drift), drawDriftMap(W, drift)];
    pictures.push(drawDepth(W, outputs.recordings.drift), drawDriftMap(W, outputs.recordings.drift));
    for (const picture of pictures) {
      wellFormed(picture);
      for (const { label, svg } of pointed(picture).slice(0, 50)) wellFormed({ out: svg, H: 1, label });
    }
  });

test("units are ranked by predicted KL beside the SQNR of their worst input and what keeping them takes off", () => {
  const c = context("real");
  const { rows, out, at, point } = drawRanking(c, 900, outputs.all.ranking);
  const predicted = marks(out, "predicted").map((m) => Number(m.predicted));
  assert.deepEqual(predicted, [...predicted].sort((p, q) => q - p));
  assert.equal(predicted.length, c.order.length + 1);
  const [first] = rows;
  for (const { unit, side, value } of marks(out, "side").filter((m) => m.unit === first.name))
    assert.equal(Number(value), c.summary[unit][c.sides["ab".indexOf(side)].name][0]);
  assert.equal(rows[at(5, 30)].tensor, first.tensor);
  const nowhere = rows.findIndex((r) => r.name === "nowhere");
  assert.equal(rows[nowhere].tensor, undefined);
  assert.match(point(nowhere).label, /no input of it was recorded.*−0.01/);
});

test("the frontier has a mark for each set and names the knee", () => {
  const { points } = outputs.all.frontier;
  const { out, point } = drawFrontier(800, outputs.all.frontier);
  assert.deepEqual(marks(out, "kl").map((m) => Number(m.kl)), points.map((p) => p.kl));
  assert.ok(out.includes("knee: 1 kept, 7.00 bits"));
  assert.match(point(1).label, /KL 0.1 \(0.05 to 0.2\), on other text 0.2/);
  assert.doesNotMatch(point(2).label, /to/);
});

test("the drift map is stronger where the error is larger, and says where", () => {
  const { drift } = outputs.all;
  const { out, stops, point } = drawDriftMap(900, drift);
  assert.equal(stops.length, drift.map.flat().length);
  const shades = marks(out, "shade").map((m) => Number(m.shade));
  assert.equal(Math.max(...shades), 11);
  assert.match(point(stops.at(-1)).label, /^c, tokens? .*511, 1[0-9]\.\d dB$/);
  assert.match(drawDriftMap(900, outputs.recordings.drift).point(2).label, /b, token 0, nothing came out/);
});

test("the kinds of a heat map are whole where there is room, and its colours are named where there is little", () => {
  const c = context("real");
  const kind = "mlp.experts.gate_proj";
  const name = `model.layers.0.${kind}`;
  const catalog = { ...c.catalog, tensors: [{ name, layer: 0 }] };
  const one = { ...c, catalog, tensor: name, order: [name], layerOf: new Map([[name, 0]]), summaryOf: () => [20] };
  const written = (W) => [...drawHeat(one, W, "error").out.matchAll(/>([^<]+)<\/text>/g)].map(([, words]) => words);
  assert.ok(written(1000).includes(kind));
  assert.ok(!written(250).includes(kind) && written(250).some((words) => /^…\w/.test(words)));
  assert.ok(written(250).includes("A&#39;s SQNR, dB"));
});

// One sentence on why 4 or 6 won, and each step, hold for any block: what is no tie of errors is not called one
for (const [what, recipe, values, amax, so, scale] of [
  ["zeros", "4/6-mae-448", Array(16).fill(0), 0, /^all values are 0, and a tie/, /÷ 0 is out of FP32&#39;s range, 3.4028×10³⁸ stands/],
  ["a scale of 0", "4/6-mse-256", Array(16).fill(1e-6), 100, /^both scales round to 0, which loses/, /= 15.36;/],
  ["one scale", "4/6-mae-448", [6, 5, ...Array(14).fill(3)], 6, /^both scales are 448, where that for 4 saturates/, /= 448;/],
  ["overflow", "4/6-mae-256", Array(16).fill(3e38), 3e38, /^both scores are beyond FP32/, /= 5.12×10⁻³⁶;/],
  ["one error", "4/6-mae-256", [4, 2, ...Array(14).fill(0)], 4, /^both make the same error/, /= 384;/],
  ["a gap", "4/6-mae-256", [6, 5, ...Array(14).fill(3)], 6, /^4 won most at column 33: 5 becomes 4.5 under 4, 4 under 6\.$/, /= 256;/],
  ["a flushed scale", "4/6-mae-448", Array.from({ length: 16 }, (_, i) => i * 1e-37), 0, /decodes no value nearer/, /out of FP32/],
])
  test(`the microscope says what decided: ${what}`, () => {
    const settings = settingsOf(recipe);
    const one = inspectBlock(values, amax, recipe, settings);
    assert.match(whyWon(one, 2), so);
    const c = { sides: [{ name: recipe, entry: { settings } }] };
    assert.match(blockSteps(c, { inspections: { [recipe]: one }, block: 2 }, 0, 0), scale);
  });

test("a score of the wrong ceiling may choose what decodes worse, and the microscope says so", () => {
  const recipe = "4/6-mae-256-scored448";
  const values = [10, 3.3, 2.9, 2.5, 1.7, 1.2, 0.8, 0.4, -0.3, -0.9, -1.4, -2.2, -3.1, -3.6, 0.1, 0.2];
  const found = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => inspectBlock(values.map((v, i) => v * (1 + 0.03 * k * (i % 3))), 10, recipe, settingsOf(recipe)));
  const told = found.filter((one) => one.choice === 4).map((one) => whyWon(one, 0));
  assert.ok(told.some((words) => /In all it decodes with more error/.test(words)), told.join("; "));
});
