// One block played through: amax, FP32 scale, E4M3, E2M1, decoding, scores; and in a sentence why 4 or 6 won.

import { esc, num, short } from "../lib/text.js";

export const STAGES = ["amax", "FP32 scale", "E4M3 block scale", "E2M1 code", "decoded", "score"];

// Rows of a table: what is done, then under A and under B. `stage` is the row that is shown last, 0 for all.
export function blockSteps(c, look, column, stage) {
  const inspections = c.sides.map((s) => look.inspections[s.name]);
  const rows = STAGES.map((name, i) => {
    const cells = inspections.map((one, k) => `<td>${stepOf(i, one, c.sides[k].entry.settings, column)}</td>`);
    const now = stage === i + 1 ? ' aria-current="step"' : "";
    const later = stage && i >= stage ? ' class="later"' : "";
    return `<tr${now}${later}><th scope="row">${i + 1} ${name}</th>${cells.join("")}</tr>`;
  });
  const why = inspections.map((one, k) => `<td>${esc(whyWon(one, look.block))}</td>`).join("");
  const last = stage ? ' class="later"' : "";
  return `<table><tbody>${rows.join("")}<tr${last}><th scope="row">so</th>${why}</tr></tbody></table>`;
}

function stepOf(stage, one, settings, column) {
  const chosen = one.candidates.find((k) => k.to === one.choice);
  const each = (show) => one.candidates.map((k) => `to ${k.to}: ${show(k)}`).join("; ");
  const whose = settings.per_token ? "token" : "tensor";
  const written = [
    () => `largest |x| of the ${whose}: ${short(one.amax, 5)}`,
    () => `${encodeText(one, settings)}; decodes with ${short(one.decode_scale)}`,
    () => each((k) => `${short(k.h)} → ${short(k.block_scale)}${limitText(k)}`),
    () => `value ${short(one.values[column])}: ${each((k) => elementText(k.codes[column]))}`,
    () => `${elementText(chosen.codes[column])} × ${short(chosen.block_scale)} × ${short(one.decode_scale)} = ${short(chosen.decoded[column])}, error ${short(chosen.errors[column])}`,
    () => each((k) => short(k.score)),
  ];
  return esc(written[stage]());
}

const elementText = (code) => `${code & 8 ? "−" : ""}${[0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]}`;

// The quotient, or what stands for it where FP32 has no such number
function encodeText({ amax, encode_scale }, { e4m3_max }) {
  const quotient = `6 × ${short(e4m3_max)} ÷ ${short(amax)}`;
  const [exact, taken] = [(6 * e4m3_max) / num(amax), num(encode_scale)];
  if (Math.abs(exact / taken - 1) < 1e-5) return `${quotient} = ${short(taken, 5)}`;
  return `${quotient} is out of FP32's range, ${short(taken, 5)} stands for it`;
}

function limitText({ saturated, block_scale }) {
  if (saturated) return ", saturates";
  return block_scale > 0 && block_scale < 2 ** -6 ? ", subnormal" : "";
}

// What decided between the candidates, in words
export function whyWon(one, block) {
  const { candidates, choice, values, err_mode } = one;
  if (candidates.length < 2) return "standard tries 6 only";
  const [six, four] = candidates;
  const [won, lost] = choice === 4 ? [four, six] : [six, four];
  if (!(num(won.score) < num(lost.score))) return `${whyTied(one)}, and a tie goes to 6`;
  const term = err_mode === "MAE" ? Math.abs : (e) => e * e;
  const terms = [won, lost].map((k) => values.map((_, i) => term(num(k.errors[i]))));
  const saved = values.map((_, i) => terms[1][i] - terms[0][i]);
  const [less, more] = terms.map((each) => each.reduce((p, q) => p + q));
  const most = saved.indexOf(Math.max(...saved));
  if (!(saved[most] > 0)) return `${choice} has the lesser score, but decodes no value nearer: its score is not the decoded error`;
  const limit = four.saturated ? ` The scale for 4 saturates at ${short(four.block_scale)}.` : "";
  const odd = less > more * (1 + 1e-5) ? " In all it decodes with more error: its score is not the decoded error." : "";
  const [x, hit, miss] = [values[most], won.decoded[most], lost.decoded[most]].map((v) => short(v, 3));
  const column = block * 16 + most;
  return `${choice} won most at column ${column}: ${x} becomes ${hit} under ${won.to}, ${miss} under ${lost.to}.${limit}${odd}`;
}

// Why neither candidate has the lesser score
function whyTied({ candidates, values }) {
  const [six, four] = candidates;
  const scores = [six, four].map((k) => num(k.score));
  if (values.every((v) => v === 0)) return "all values are 0";
  if (scores.some(Number.isNaN)) return "a score is no number";
  if (!scores.some(Number.isFinite)) return "both scores are beyond FP32";
  if (!six.block_scale && !four.block_scale) return "both scales round to 0, which loses every value";
  if (six.block_scale === four.block_scale) return `both scales are ${short(six.block_scale)}${four.saturated ? ", where that for 4 saturates" : ""}`;
  return "both make the same error";
}
