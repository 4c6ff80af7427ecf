// The views in node alone: what they draw of statistics that Python wrote to the file named by NVFP4VIZ_CONTEXT.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { fixed, percent, short, signed, esc, ticks, nearest, counts, int } from "../../nvfp4viz/web/lib/text.js";
import { tag, text } from "../../nvfp4viz/web/lib/svg.js";
import { drawScales } from "../../nvfp4viz/web/views/scales.js";
import { drawClipping } from "../../nvfp4viz/web/views/clipping.js";
import { drawError } from "../../nvfp4viz/web/views/error.js";
import { drawTensors, lanesOf } from "../../nvfp4viz/web/views/tensors.js";
import { BLOCK_NARROWEST, drawBlock } from "../../nvfp4viz/web/views/block.js";

const { contexts, look } = JSON.parse(fs.readFileSync(process.env.NVFP4VIZ_CONTEXT, "utf8"));
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
    const drawn = marks(drawScales(c, 900, 320).out, "byte").filter((m) => m.side === side);
    const [six, four] = [counts(stats.six), counts(stats.four)];
    const bytes = [...new Set([...six.keys(), ...four.keys()])].filter((b) => six.get(b) || four.get(b));
    assert.deepEqual(drawn.map((m) => +m.byte).sort((p, q) => p - q), bytes.sort((p, q) => p - q));
    for (const m of drawn) assert.deepEqual([+m.six, +m.four], [six.get(+m.byte) || 0, four.get(+m.byte) || 0]);
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
        const falls = marks(picture.out, "decoded").filter((m) => m.side === side && +m.to === k.to);
        assert.deepEqual(falls.map((m) => +m.decoded + 0), k.decoded.map((v) => v + 0)); // -0 is written 0
      }
    }
    assert.equal(picture.at(W - 1, picture.H - 5), 15);
  }
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
