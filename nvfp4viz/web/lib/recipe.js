// Recipes as the dials make them: their short names, as `Recipe.name` in Python, and who runs them.

import { E4M3 } from "./quantize.js";
import { nearest } from "./text.js";

export function recipeName({ four_over_six, e4m3_max, err_mode, err_use_fast_math, per_token, fast_math, scored_as }) {
  const words = four_over_six ? ["4/6", err_mode.toLowerCase(), e4m3_max] : ["standard"];
  if (!four_over_six && e4m3_max !== 448) words.push(e4m3_max);
  if (!four_over_six && err_mode === "MSE") words.push("mse");
  if (err_use_fast_math) words.push("fp16err");
  if (!per_token) words.push("tensor");
  if (fast_math) words.push("fast");
  if (scored_as !== null && scored_as !== undefined) words.push(`scored${scored_as}`);
  return words.join("-");
}

// The settings that a short name stands for, null where it is none
export function settingsOf(name) {
  const pattern =
    /^(standard|4\/6-(mae|mse))(?:-([\d.]+(?:e-?\d+)?))?(-mse)?(-fp16err)?(-tensor)?(-fast)?(?:-scored([\d.]+(?:e-?\d+)?))?$/;
  const parts = pattern.exec(name);
  if (!parts) return null;
  const [, , mode, ceiling, standardMode, fp16, tensor, fast, scored] = parts;
  return {
    e4m3_max: Number(ceiling || 448),
    four_over_six: Boolean(mode),
    err_mode: mode === "mse" || standardMode ? "MSE" : "MAE",
    err_use_fast_math: Boolean(fp16),
    per_token: !tensor,
    fast_math: Boolean(fast),
    scored_as: scored ? Number(scored) : null,
  };
}

// Whether a name is of a recipe that a page computes itself, a block at a time
export function isComputed(name) {
  const settings = settingsOf(name);
  return Boolean(settings && recipeName(settings) === name && E4M3.includes(settings.e4m3_max) && !settings.fast_math);
}

export const sameSettings = (p, q) => Object.keys(p).every((k) => p[k] === q[k]);

const OFFERED = { true: [448, 256], false: [448] }; // ceilings that FlashInfer has, with 4over6 and without

// Why no engine runs a recipe, "" where one does: as `study_only` in Python
export function studyOnly({ four_over_six, e4m3_max, scored_as }) {
  if (scored_as !== null && scored_as !== undefined)
    return `its scale is made for ${e4m3_max}, scored for ${scored_as}: a fault, to study only`;
  const offered = OFFERED[four_over_six];
  if (offered.includes(e4m3_max)) return "";
  const near = nearest(offered, (ceiling) => Math.abs(ceiling - e4m3_max));
  const mistyped = Math.abs(near - e4m3_max) < 0.05 * near && !E4M3.includes(e4m3_max);
  const has = offered.join(" and ") + (four_over_six ? "" : " without 4over6");
  return `no engine has the ceiling ${e4m3_max}, FlashInfer has ${has}: ${mistyped ? `did you mean ${near}?` : "to study only"}`;
}

// A name as it stands in pictures and lines
export const markedName = (name, settings) => (studyOnly(settings) ? `${name} (study only)` : name);
