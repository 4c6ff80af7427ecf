// Names of strangers as keys: those that every object seems to have, and the empty one.
import assert from "node:assert/strict";
import { test } from "node:test";
import { answers } from "../../nvfp4viz/web/report/data.js";
import { stateInHash } from "../../nvfp4viz/web/report/state.js";
import { kindOf } from "../../nvfp4viz/web/views/heat.js";
import { lastPart } from "../../nvfp4viz/web/views/tensors.js";

const NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", ""];
const byName = (value) => JSON.parse(`{${NAMES.map((name) => `${JSON.stringify(name)}:${value}`)}}`);
const settings = { e4m3_max: 448, four_over_six: false, err_mode: "MAE", err_use_fast_math: false, per_token: true };
const recipe = { settings: { ...settings, fast_math: false, scored_as: null } };
const page = (stats) => ({
  stats,
  blocks: {},
  catalog: { recipes: NAMES.map((name) => ({ ...recipe, name })), rules: { gained: "…" } },
});

test("a tensor and a recipe of any name are found", () => {
  const answer = answers(page(byName(JSON.stringify(byName(1)))));
  for (const tensor of NAMES) {
    const { stats } = answer({ want: "stats", tensor, recipes: NAMES });
    assert.deepEqual(Object.keys(stats), [tensor]);
    assert.deepEqual(NAMES.map((name) => Object.hasOwn(stats[tensor], name)), NAMES.map(() => true));
  }
});

test("what is not there is not found, whatever it is called", () => {
  const answer = answers(page({}));
  for (const tensor of NAMES)
    for (const want of ["stats", "picks", "block"])
      assert.equal(answer({ want, tensor, recipes: ["name", "length"], recipe: "a", rule: "gained", block: [0, 0] }), null);
  const one = answers(page({ x: {} }));
  assert.equal(one({ want: "stats", tensor: "x", recipes: ["constructor"] }), null);
});

test("an address chooses what there is, and nothing when it says nothing", () => {
  const data = page(byName(1));
  assert.deepEqual(stateInHash("", data), {});
  for (const name of NAMES) {
    const hash = "#" + new URLSearchParams({ tensor: name, recipe_a: name });
    assert.deepEqual(Object.entries(stateInHash(hash, data)), [["tensor", name], ["recipe_a", name]]);
  }
  assert.deepEqual(stateInHash("#tensor=valueOf&rule=constructor&view=__proto__&block=x", data), {});
});

test("names of all manners keep what tells them apart", () => {
  const names = { "x1.26": "x1.26", "x1.5": "x1.5", "1.26": "1.26", "spread ×1.26": "spread ×1.26", "fc.": "fc", "...": "..." };
  for (const [name, kind] of Object.entries(names)) assert.equal(kindOf(name), kind);
  assert.equal(kindOf("model.layers.3.mlp.experts.10.down_proj"), "mlp.experts.down_proj");
  assert.equal(kindOf("blocks.0.1.linear"), kindOf("blocks.11.1.linear"));
  assert.equal(kindOf("layer1.0.conv1"), "layer1.conv1");
  const last = { "x1.26": "x1.26", "a.b": "b", "fc.": "fc.", "...": "...", "": "", "experts.5": "experts.5" };
  for (const [name, part] of Object.entries(last)) assert.equal(lastPart(name), part);
});
