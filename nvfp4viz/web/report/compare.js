// Two reports side by side, of their data alone: what `nvfp4viz report a.html b.html` says, but for the intervals.

import { own } from "../lib/own.js";
import { sameSettings, studyOnly } from "../lib/recipe.js";
import { LEAST_DB, int, num, quantity, short } from "../lib/text.js";

const CHANGES = {
  better: "are better",
  worse: "worse",
  alike: "alike to 0.001 dB",
  unknown: "without a number",
  identical: "identical to the bit",
};
const ALWAYS = ["better", "worse", "identical"]; // are counted where there is none, too
const SKIPPED = 3; // tensors that were skipped and are named with the reason

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

const measuredTokens = (data, tensor, recipe) => sum(exactOf(data, tensor, recipe).run_tokens?.[0] || []);

// Whether release 0.1.0 saved this, or a part of it, which did not measure single tokens
function runsMissing(data, tensor, recipe) {
  const [, ...counts] = data.stats[tensor][recipe].token_nmse || [0];
  return measuredTokens(data, tensor, recipe) < sum(counts);
}

// NMSE of a typical token, the mean over tokens, each counting alike; of the whole tensor where `whole`
function nmseOf(data, tensor, recipe, whole) {
  const { run_nmse, run_tokens } = exactOf(data, tensor, recipe);
  const tokens = measuredTokens(data, tensor, recipe);
  if (whole || !tokens) return num(own(own(data.stats, tensor), recipe).nmse);
  return sum(unshuffled(run_nmse, 0, run_tokens[0].length)) / tokens;
}

// [A's recipe, what it is compared with in B]: of the same settings, else B's that differs in arithmetic alone and is
// compared with no other
function twins(a, b) {
  const [mine, others] = [a.catalog.recipes, b.catalog.recipes];
  const same = ({ settings }) => others.find((r) => sameSettings(settings, r.settings));
  const free = others.filter((r) => !mine.some(({ settings }) => sameSettings(settings, r.settings)));
  const like = ({ settings }) =>
    free.find((r) => sameSettings({ ...settings, fast_math: r.settings.fast_math }, r.settings));
  return mine.map((r) => [r, same(r) || like(r)]).filter(([, twin]) => twin !== undefined);
}

// [{tensor, recipe, before, after, gain, change, whole, sameInput, tokens}], in A's order
export function pairsOf(a, b) {
  const recipes = twins(a, b);
  const shared = a.catalog.tensors.map((t) => t.name).filter((t) => own(a.stats, t) && own(b.stats, t));
  return shared.flatMap((tensor) => {
    const both = recipes.filter(([mine, twin]) => own(a.stats[tensor], mine.name) && own(b.stats[tensor], twin.name));
    return both.map(([mine, twin]) => pairOf(a, b, tensor, mine, twin.name));
  });
}

function pairOf(a, b, tensor, { name, settings }, twin) {
  const [p, q] = [exactOf(a, tensor, name), exactOf(b, tensor, twin)];
  const [s, t] = [a.stats[tensor][name], b.stats[tensor][twin]];
  const whole = runsMissing(a, tensor, name) || runsMissing(b, tensor, twin);
  const [before, after] = [dB(nmseOf(a, tensor, name, whole)), dB(nmseOf(b, tensor, twin, whole))];
  const gain = before === after ? 0 : after - before;
  const sameInput = s.tokens === t.tokens && p.x_sq === q.x_sq && s.x_amax === t.x_amax;
  const change = changeOf(gain, statistics({ ...s, ...p }) === statistics({ ...t, ...q }));
  const study = studyOnly(settings);
  return { tensor, recipe: name, study, before, after, gain, change, whole, sameInput, tokens: [s.tokens, t.tokens] };
}

// Which way a pair went, as far as a reader could see: one of CHANGES
function changeOf(gain, identical) {
  if (identical) return "identical";
  if (Number.isNaN(gain)) return "unknown";
  if (Math.abs(gain) < LEAST_DB) return "alike";
  return gain > 0 ? "better" : "worse";
}

// All that was counted and summed, as text; who computed it, and what else is drawn of it, left out
function statistics(values) {
  const rest = Object.entries(values).filter(([name]) => !["engine", "recipe", "attribution"].includes(name));
  return JSON.stringify(rest.sort(([p], [q]) => (p < q ? -1 : 1)));
}

// What a reader must know before any difference; nothing where the two are comparable
export function obstacles(a, b, pairs) {
  const paired = twins(a, b);
  const lines = [
    ...onlyIn("A", a, b, paired.map(([mine]) => mine)), // prettier-ignore
    ...onlyIn("B", b, a, paired.map(([, twin]) => twin)), // prettier-ignore
  ];
  const other = paired.filter(([mine, twin]) => !sameSettings(mine.settings, twin.settings));
  const beside = other.map(([mine, twin]) => `${mine.name} in A beside ${twin.name} in B`);
  if (other.length) lines.push(`Other arithmetic: ${beside.join(", ")}.`);
  if (pairs.some((p) => p.whole))
    lines.push("Errors are of whole tensors, without intervals: an earlier release saved no single tokens.");
  return [...lines, ...otherData(pairs)];
}

function onlyIn(side, mine, other, paired) {
  const names = Object.keys(mine.stats);
  const only = names.filter((t) => !own(other.stats, t));
  const alone = mine.catalog.recipes.filter((r) => !paired.includes(r)).map((r) => r.name);
  const skipped = Object.entries(mine.skipped || {});
  const more = skipped.length - SKIPPED;
  return [
    ...(only.length ? [`Only in ${side}: ${int(only.length)} of its ${quantity(names.length, "tensor")}, such as ${only[0]}.`] : []),
    ...(alone.length ? [`Measured in ${side} alone: ${alone.join(", ")}.`] : []),
    ...skipped.slice(0, SKIPPED).map(([name, why]) => `Skipped in ${side}: ${name}: ${why}`),
    ...(more > 0 ? [`Skipped in ${side}, too: ${quantity(more, "more tensor")}.`] : []),
  ];
}

function otherData(pairs) {
  const lengths = pairs.filter((p) => p.tokens[0] !== p.tokens[1]);
  const others = new Set(lengths.map((p) => p.tensor));
  const values = new Set(pairs.filter((p) => !p.sameInput && !others.has(p.tensor)).map((p) => p.tensor));
  const lines = [];
  if (others.size) {
    const [{ tensor, tokens }] = lengths;
    const counted = `${int(tokens[0])} in A, ${int(tokens[1])} in B`;
    lines.push(`Other numbers of tokens in ${quantity(others.size, "tensor")}, such as ${tensor}: ${counted}.`);
  }
  const first = [...values].sort()[0];
  if (values.size) lines.push(`Other values in ${quantity(values.size, "tensor")} of as many tokens, such as ${first}.`);
  return lines;
}

// The median of what is a number; infinite ones have their place, and 0 is between opposite ones
export function median(values) {
  const sorted = values.filter((v) => !Number.isNaN(v)).sort((p, q) => p - q || 0);
  const middle = sorted.length >> 1;
  if (!sorted.length) return 0;
  if (sorted.length % 2 || sorted[middle - 1] === sorted[middle]) return sorted[middle];
  return (sorted[middle - 1] + sorted[middle]) / 2 || 0;
}

// In a sentence, by the median, which no outlier decides
export function sentence(pairs) {
  if (!pairs.length) return "Nothing to compare: the two share no tensor and recipe.";
  const many = (change) => pairs.filter((p) => p.change === change).length;
  if (many("identical") === pairs.length)
    return `No difference: all ${int(pairs.length)} pairs of tensor and recipe that both have are the same to the last bit.`;
  const shown = Object.entries(CHANGES).filter(([change]) => many(change) || ALWAYS.includes(change));
  const counts = shown.map(([change, words]) => `${int(many(change))} ${words}`);
  const counted = `of ${quantity(pairs.length, "pair")} of tensor and recipe ${counts.slice(0, -1).join(", ")} and ${counts.at(-1)}`;
  const other = new Set(pairs.filter((p) => !p.sameInput).map((p) => p.tensor));
  if (other.size) {
    const all = new Set(pairs.map((p) => p.tensor)).size;
    const where = `in ${int(other.size)} of ${quantity(all, "tensor")}, so that a difference may be the data's`;
    return `A and B saw different activations: ${where}; ${counted}.`;
  }
  const middle = median(pairs.map((p) => p.gain));
  if (Math.abs(middle) < LEAST_DB) return `No difference in the median: ${counted}.`;
  const what = pairs.some((p) => p.whole) ? "A tensor" : "A typical token";
  return `${what} is ${short(Math.abs(middle), 2)} dB ${middle > 0 ? "better" : "worse"} in B, in the median: ${counted}.`;
}
