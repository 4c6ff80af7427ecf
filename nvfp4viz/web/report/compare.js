// Two reports side by side, of their data alone: what `nvfp4viz report a.html b.html` says, but for the intervals.

import { own } from "../lib/own.js";
import { sameSettings } from "../lib/recipe.js";
import { int, num, short } from "../lib/text.js";

const dB = (nmse) => (nmse ? -10 * Math.log10(nmse) : Infinity);
const exactOf = ({ exact }, tensor, recipe) => ({ ...own(exact, tensor).all, ...own(own(exact, tensor).each, recipe) });

// A row of float64 numbers, stored as all first bytes, then all second ones, ...
function unshuffled(text, from, to) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const n = bytes.length / 8;
  const view = new DataView(new ArrayBuffer(8));
  return Array.from({ length: to - from }, (_, i) => {
    for (let k = 0; k < 8; k++) view.setUint8(k, bytes[k * n + from + i]);
    return view.getFloat64(0, true);
  });
}

const sum = (numbers) => numbers.reduce((p, q) => p + q, 0);

// NMSE of a typical token: the mean over tokens, each counting alike; the whole tensor's where a file has no other
function typicalNmse(data, tensor, recipe) {
  const { run_nmse, run_tokens } = exactOf(data, tensor, recipe);
  const tokens = sum(run_tokens?.[0] || []);
  if (!tokens) return num(own(own(data.stats, tensor), recipe).nmse);
  return sum(unshuffled(run_nmse, 0, run_tokens[0].length)) / tokens;
}

// A's recipes and B's of the same settings, else B's that differ in arithmetic alone
function twins(a, b) {
  const like = (settings) =>
    b.catalog.recipes.find((r) => sameSettings(settings, r.settings)) ||
    b.catalog.recipes.find((r) => sameSettings({ ...settings, fast_math: r.settings.fast_math }, r.settings));
  return a.catalog.recipes.map((r) => [r.name, like(r.settings)?.name]).filter(([, twin]) => twin !== undefined);
}

// [{tensor, recipe, before, after, gain, sameInput, identical}], in A's order
export function pairsOf(a, b) {
  const recipes = twins(a, b);
  const shared = a.catalog.tensors.map((t) => t.name).filter((t) => own(a.stats, t) && own(b.stats, t));
  return shared.flatMap((tensor) => {
    const both = recipes.filter(([name, twin]) => own(a.stats[tensor], name) && own(b.stats[tensor], twin));
    return both.map(([name, twin]) => pairOf(a, b, tensor, name, twin));
  });
}

function pairOf(a, b, tensor, recipe, twin) {
  const [p, q] = [exactOf(a, tensor, recipe), exactOf(b, tensor, twin)];
  const [s, t] = [a.stats[tensor][recipe], b.stats[tensor][twin]];
  const [before, after] = [dB(typicalNmse(a, tensor, recipe)), dB(typicalNmse(b, tensor, twin))];
  const sameInput = s.tokens === t.tokens && p.x_sq === q.x_sq && s.x_amax === t.x_amax;
  const identical = statistics({ ...s, ...p }) === statistics({ ...t, ...q });
  return { tensor, recipe, before, after, gain: before === after ? 0 : after - before, sameInput, identical, tokens: [s.tokens, t.tokens] };
}

// All that was counted and summed, as text; who computed it, and what else is drawn of it, left out
function statistics(values) {
  const rest = Object.entries(values).filter(([name]) => !["engine", "recipe", "attribution"].includes(name));
  return JSON.stringify(rest.sort(([p], [q]) => (p < q ? -1 : 1)));
}

// What a reader must know before any difference; nothing where the two are comparable
export function obstacles(a, b, pairs) {
  const lines = [["A", a, b], ["B", b, a]].flatMap(([side, mine, other]) => onlyIn(side, mine, other)); // prettier-ignore
  const lengths = pairs.filter((p) => p.tokens[0] !== p.tokens[1]);
  const others = new Set(lengths.map((p) => p.tensor));
  const values = new Set(pairs.filter((p) => !p.sameInput && !others.has(p.tensor)).map((p) => p.tensor));
  const [first] = lengths;
  if (first) {
    const counted = `${int(first.tokens[0])} in A, ${int(first.tokens[1])} in B`;
    lines.push(`Other numbers of tokens in ${int(others.size)} tensors, such as ${first.tensor}: ${counted}.`);
  }
  if (values.size) lines.push(`Other values in ${int(values.size)} tensors of as many tokens, such as ${[...values].sort()[0]}.`);
  return lines;
}

function onlyIn(side, mine, other) {
  const names = Object.keys(mine.stats);
  const only = names.filter((t) => !own(other.stats, t));
  const missing = only.length ? [`Only in ${side}: ${int(only.length)} of its ${int(names.length)} tensors, such as ${only[0]}.`] : [];
  const skipped = Object.entries(mine.skipped || {}).slice(0, 3);
  return [...missing, ...skipped.map(([name, why]) => `Skipped in ${side}: ${name}: ${why}`)];
}

export function median(values) {
  const sorted = [...values].sort((p, q) => p - q);
  const middle = sorted.length >> 1;
  if (!sorted.length) return 0;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// In a sentence, by the median, which no outlier decides
export function sentence(pairs) {
  const many = (test) => int(pairs.filter(test).length);
  if (!pairs.length) return "Nothing to compare: the two share no tensor and recipe.";
  if (pairs.every((p) => p.identical)) return `No difference: all ${int(pairs.length)} statistics are the same to the last bit.`;
  const counted =
    `of ${int(pairs.length)} pairs of tensor and recipe ${many((p) => p.gain > 0)} are better, ` +
    `${many((p) => p.gain < 0)} worse and ${many((p) => p.identical)} identical`;
  const other = new Set(pairs.filter((p) => !p.sameInput).map((p) => p.tensor));
  if (other.size) {
    const all = new Set(pairs.map((p) => p.tensor)).size;
    const where = `in ${int(other.size)} of ${int(all)} tensors, so that a difference may be the data's`;
    return `A and B saw different activations: ${where}; ${counted}.`;
  }
  const middle = median(pairs.map((p) => p.gain).filter(Number.isFinite));
  if (!middle) return `No difference in the median: ${counted}.`;
  return `A typical token is ${short(Math.abs(middle), 2)} dB ${middle > 0 ? "better" : "worse"} in B, in the median: ${counted}.`;
}
