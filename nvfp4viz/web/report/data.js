// The data that a page holds, unfolded, and the answers that it has in a kernel's place. Numbers are Python's; only
// decoded values are multiplied out, as `inspect_block` does.

import { unpacked } from "../explorer/packed.js";
import { own } from "../lib/own.js";
import { inspectBlock } from "../lib/quantize.js";
import { settingsOf } from "../lib/recipe.js";
import { num } from "../lib/text.js";

export const dataOf = (id) => unpacked(document.getElementById(id).textContent);

// What microscope.inspect_block gives, from [amax, encode scale, decode scale, choice, candidate...]
function unfold([amax, encode, decode, choice, ...tried], values, recipe, catalog) {
  const scale = Math.fround(num(decode));
  const candidates = tried.map((one, i) => unfoldCandidate(one, i ? 4 : 6, values, scale, catalog));
  return {
    recipe: recipe.name,
    err_mode: recipe.settings.err_mode,
    values,
    amax: Math.fround(num(amax)),
    encode_scale: Math.fround(num(encode)),
    decode_scale: scale,
    choice,
    byte: candidates[choice === 4 ? 1 : 0].byte,
    candidates,
  };
}

// A candidate is [h, byte, saturated, score, codes]. Values are rounded once, as in float32.
function unfoldCandidate([h, byte, saturated, score, digits], to, values, scale, { e4m3, e2m1 }) {
  const codes = [...digits].map((d) => parseInt(d, 16));
  const decoded = codes.map((c) => Math.fround((c & 8 ? -1 : 1) * e2m1[c & 7] * e4m3[byte] * scale));
  return {
    to,
    h: Math.fround(num(h)),
    byte,
    block_scale: e4m3[byte],
    saturated: saturated === 1,
    step: Math.fround(e4m3[byte] * scale),
    codes,
    decoded,
    errors: decoded.map((v, k) => v - values[k]),
    score: Math.fround(num(score)),
  };
}

const NO_FAST = "Fast arithmetic takes a GPU's reciprocals, which this page has not: that needs a notebook.";

// What a kernel would answer, as far as the page holds it
export function answers(data) {
  const wanted = { stats: statsAnswer, picks: picksAnswer, block: blockAnswer };
  return (message) => wanted[message.want]?.(data, message) || null;
}

function statsAnswer({ stats }, { tensor, recipes }) {
  const row = own(stats, tensor);
  return recipes.every((name) => own(row, name)) && { kind: "stats", stats: { [tensor]: row } };
}

// Under a recipe that the page made itself nothing is ranked: all the blocks that the file has
function picksAnswer({ blocks }, { tensor, recipe, rule }) {
  const kept = own(blocks, tensor);
  if (!kept) return null;
  const all = Object.keys(kept.blocks).map((key) => key.split(",").map(Number));
  const note = all.length ? "those in this file, not ranked" : "this file holds none of its blocks";
  const unranked = { blocks: all.map(([token, block]) => ({ token, block })), note };
  return { kind: "picks", ...(kept.picks[`${recipe}|${rule}`] || unranked) };
}

function blockAnswer({ catalog, blocks, inspections }, { tensor, recipes, block, values }) {
  const kept = own(blocks, tensor)?.blocks;
  const at = kept ? Object.keys(kept).indexOf(block.join()) : -1;
  if (at < 0) return null;
  const { values: stored, token_text, token_amax, tensor_amax } = kept[block.join()];
  const packed = own(inspections, tensor)?.[at]; // of recipes that the page does not compute
  const byName = (name) => catalog.recipes.find((r) => r.name === name);
  const seen = recipes.map((name) => {
    const inFile = own(packed, name);
    if (inFile && !values) return [name, unfold(inFile, stored, byName(name), catalog)];
    const settings = byName(name)?.settings || settingsOf(name);
    if (settings.fast_math) return [name, null];
    return [name, inspectBlock(values || stored, num(settings.per_token ? token_amax : tensor_amax), name, settings)];
  });
  if (seen.some(([, one]) => !one)) return { kind: "refused", text: NO_FAST };
  return { kind: "block", stored, token_text, inspections: Object.fromEntries(seen) };
}
