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
    () => `6 × ${short(settings.e4m3_max)} ÷ ${short(one.amax)} = ${short(one.encode_scale, 5)}; decodes with ${short(one.decode_scale)}`,
    () => each((k) => `${short(k.h)} → ${short(k.block_scale)}${k.saturated ? ", saturates" : ""}`),
    () => `value ${short(one.values[column])}: ${each((k) => elementText(k.codes[column]))}`,
    () => `${elementText(chosen.codes[column])} × ${short(chosen.block_scale)} × ${short(one.decode_scale)} = ${short(chosen.decoded[column])}, error ${short(chosen.errors[column])}`,
    () => each((k) => short(k.score)),
  ];
  return esc(written[stage]());
}

const elementText = (code) => `${code & 8 ? "−" : ""}${[0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]}`;

// What decided between the candidates, in words
export function whyWon(one, block) {
  const { candidates, choice, values, err_mode } = one;
  if (candidates.length < 2) return "standard tries 6 only";
  const [six, four] = candidates;
  const [won, lost] = choice === 4 ? [four, six] : [six, four];
  if (num(six.score) === num(four.score)) return "both make the same error, and a tie goes to 6";
  const term = err_mode === "MAE" ? Math.abs : (e) => e * e;
  const saved = values.map((_, i) => term(num(lost.errors[i])) - term(num(won.errors[i])));
  const most = saved.indexOf(Math.max(...saved));
  const column = block * 16 + most;
  const limit = four.saturated ? ` The scale for 4 saturates at ${short(four.block_scale)}.` : "";
  const [x, hit, miss] = [values[most], won.decoded[most], lost.decoded[most]].map((v) => short(v, 3));
  return `${choice} won most at column ${column}: ${x} becomes ${hit} under ${won.to}, ${miss} under ${lost.to}.${limit}`;
}
