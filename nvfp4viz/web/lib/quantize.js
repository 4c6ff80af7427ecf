// NVFP4 and 4over6 in strict arithmetic, one block at a time: what `inspect_block` gives in Python, bit for bit. Each step
// is rounded once to FP32, and subnormals are flushed. A double holds a sum, a product or a quotient of two floats well
// enough that rounding it to FP32 is rounding once. Fast arithmetic needs a GPU's table of reciprocals: not here.

const FLT_MAX = 3.4028234663852886e38;
const FLT_MIN = 2 ** -126; // the smallest normal number
const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
export const E4M3 = Array.from({ length: 127 }, (_, byte) => e4m3Value(byte));
const MARGIN = 1 + 2 ** -20; // what is above 448 by less is noise of FP32

function e4m3Value(byte) {
  const exponent = byte >> 3;
  const mantissa = byte & 7;
  return exponent ? (1 + mantissa / 8) * 2 ** (exponent - 7) : mantissa * 2 ** -9;
}

// To FP32, with a zero of its sign for a subnormal
function f32(v) {
  const rounded = Math.fround(v);
  return Math.abs(rounded) < FLT_MIN ? rounded * 0 : rounded;
}

// The lesser; what is no number is the limit.
const atMost = (v, limit) => (v < limit ? v : limit);

// The index of the nearest among ascending values: a tie goes to the even one, and beyond the last is the last.
function nearestEven(values, v) {
  let low = 0;
  let high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= v) low = middle;
    else high = middle;
  }
  if (v >= values[high]) return high;
  const half = (values[low] + values[high]) / 2;
  if (v === half) return low % 2 ? high : low;
  return v < half ? low : high;
}

const encodeE4M3 = (h) => nearestEven(E4M3, atMost(h, 448));

// sign << 3 | index; no number gives +6.
function encodeE2M1(v) {
  if (Number.isNaN(v)) return 7;
  const negative = v < 0 || Object.is(v, -0);
  return nearestEven(E2M1, Math.abs(v)) | (negative ? 8 : 0);
}

const decodeE2M1 = (code) => (code & 8 ? -E2M1[code & 7] : E2M1[code & 7]);

// Encode and decode scale from the largest magnitude of a token, or of a tensor
export function scalesOf(amax, { per_token, e4m3_max }) {
  if (!per_token) {
    const encode = atMost(Math.fround(Math.fround(6 * e4m3_max) / amax), FLT_MAX);
    return { encode, decode: Math.fround(1 / encode) };
  }
  const largest = f32(amax);
  const fullRange = Math.fround(1 / Math.fround(1 / (6 * e4m3_max))); // 6 * e4m3_max, but for some ceilings
  const encode = f32(atMost(Math.fround(fullRange / largest), FLT_MAX)) || 1;
  return { encode, decode: largest === 0 ? 0 : f32(1 / encode) };
}

// The scales before E4M3 rounds them, for 6 and for 4
function rawScales(bmax, encode, { four_over_six }) {
  const six = four_over_six ? f32(f32(bmax / 6) * encode) : f32(bmax * f32(encode * Math.fround(1 / 6)));
  return [six, f32(six * 1.5)];
}

function scoreOf(x, codes, scale, encode, amax, settings) {
  const { err_mode, err_use_fast_math, per_token, e4m3_max, scored_as } = settings;
  const fullRange = Math.fround(6 * (scored_as ?? e4m3_max));
  const decode = f32(1 / encode);
  const differences = codes.map((code, i) => {
    const value = decodeE2M1(code) * scale;
    if (err_use_fast_math) return f32(value - f32(x[i] * encode));
    return f32((per_token ? f32(f32(value * amax) / fullRange) : f32(value * decode)) - x[i]);
  });
  const terms = differences.map(err_mode === "MAE" ? Math.abs : (d) => f32(d * d));
  return terms.reduce((sum, term) => f32(sum + term), 0);
}

// A block of 16 under one recipe: its candidates, and which one it takes; a tie goes to 6.
export function quantizeBlock(values, encodeScale, amax, settings) {
  const x = values.map(f32);
  const encode = f32(encodeScale);
  const bmax = Math.max(...x.map(Math.abs));
  const raw = rawScales(bmax, encode, settings).slice(0, settings.four_over_six ? 2 : 1);
  const candidates = raw.map((h, i) => {
    const byte = encodeE4M3(h);
    const scale = E4M3[byte];
    const output = bmax === 0 ? 0 : atMost(f32(1 / f32(scale * f32(1 / encode))), FLT_MAX);
    const scaled = x.map((v) => f32(v * output));
    const codes = scaled.map(encodeE2M1);
    const score = scoreOf(x, codes, scale, encode, f32(amax), settings);
    return { to: i ? 4 : 6, h, byte, block_scale: scale, saturated: h > 448 * MARGIN, scaled, codes, score };
  });
  const taken = candidates[candidates.length > 1 && candidates[1].score < candidates[0].score ? 1 : 0];
  const zero = settings.four_over_six && bmax === 0;
  const codes = zero ? taken.codes.map(() => 0) : taken.codes;
  return { x, candidates, codes, byte: zero ? 0 : taken.byte };
}

// What the microscope draws of a block. `amax` is its token's, or its tensor's; at least its own is taken.
export function inspectBlock(values, amax, name, settings) {
  const largest = Math.fround(Math.max(Math.abs(amax), ...values.map((v) => Math.abs(f32(v)))));
  const { encode, decode } = scalesOf(largest, settings);
  const { x, candidates, codes, byte } = quantizeBlock(values, encode, largest, settings);
  const shown = candidates.map((k) => {
    const decoded = k.codes.map((code) => Math.fround(decodeE2M1(code) * k.block_scale * decode));
    return { ...k, step: Math.fround(k.block_scale * decode), decoded, errors: decoded.map((v, i) => v - x[i]) };
  });
  const four = shown.length > 1 && byte === shown[1].byte && byte !== shown[0].byte;
  const { err_mode } = settings;
  const scales = { encode_scale: encode, decode_scale: decode };
  return { recipe: name, err_mode, values: x, amax: largest, ...scales, choice: four ? 4 : 6, byte, codes, candidates: shown };
}
