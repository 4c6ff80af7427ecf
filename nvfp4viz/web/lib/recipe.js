// Recipes as the dials make them: their short names, as `Recipe.name` in Python, and who runs them.

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

export const sameSettings = (p, q) => Object.keys(p).every((k) => p[k] === q[k]);

// Why no engine runs a recipe, "" where FlashInfer does
export function studyOnly({ four_over_six, e4m3_max }) {
  if (e4m3_max === 448 || (four_over_six && e4m3_max === 256)) return "";
  return four_over_six ? "FlashInfer has the ceilings 448 and 256" : "FlashInfer's standard has the ceiling 448";
}
