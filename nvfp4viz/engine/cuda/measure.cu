// What quantizing a block by one candidate does to it.

struct Block {  // what all candidates share
    const Input* at;
    Raw raw;
    float bmax, sixth;  // its amax, and that over 6
    double x_sq;
    int nonzero;  // elements
    uint2 signs;  // bit 3 of each code
};

struct Measured {
    double err_sq, err_abs, x_hat_sq, x_dot_x_hat;
    float max_error;  // of an ordinary block, else 0
    int lost;         // elements clipped, and 2^16 times those flushed
    uint2 codes;
};

__device__ unsigned nonzero_codes(uint2 codes) {  // one bit each
    unsigned x = codes.x | codes.x >> 1 | codes.x >> 2, y = codes.y | codes.y >> 1 | codes.y >> 2;
    return (x & 0x11111111) | (y & 0x11111111) << 1;
}

__device__ Block read_block(const Raw& raw, const Input* at, float bmax) {
    Block b = {at, raw, bmax, __fdiv_rn(bmax, 6.f), 0, BLOCK, sign_bits(raw)};
    if (has_zero(raw)) {
        b.nonzero = 0;
        for (int i = 0; i < BLOCK; i++) b.nonzero += bits(magnitude(element(raw, i))) != 0;
    }
    for (int i = 0; i < BLOCK; i++) {  // in column order, for the reference's bins; an FP32 number's square is exact
        double value = widen(element(raw, i));
        b.x_sq = __fma_rn(value, value, b.x_sq);
    }
    return b;
}

// Any block, in float64 throughout; its largest error goes to `max_error`.
__device__ __noinline__ void measure_into(const Input* at, Candidate c, float decode, Measured* m, double* max_error) {
    float limit = c.byte ? 6 * MARGIN : __uint_as_float(INFINITY_BITS);
    unsigned quarters[4] = {};
    double largest = 0;
    *m = {};
#pragma unroll 4
    for (int i = 0; i < BLOCK; i++) {
        float x = element(at + i), scaled = x * c.output, a = magnitude(x);
        Element q = e2m1(scaled);
        float a_hat = multiply_ieee(q.value * c.scale, decode);
        quarters[i / 4] += q.code << i % 4 * 4;
        m->lost += (bits(a) != 0 && bits(a_hat) == 0) << 16 | fabsf(scaled) > limit;
        double value = widen(a), value_hat = widen(a_hat);
        if (scaled != scaled && bits(x) >> 31) value_hat = -value_hat;  // NaN became +6, whatever the sign of x
        double err = fabs(value_hat - value);
        m->err_sq += err * err;
        m->err_abs += err;
        m->x_hat_sq = __fma_rn(value_hat, value_hat, m->x_hat_sq);
        m->x_dot_x_hat = __fma_rn(value, value_hat, m->x_dot_x_hat);
        largest = err > largest ? err : largest;
    }
    m->codes = pack(quarters);
    *max_error = largest;
}

__device__ __forceinline__ Measured measure_any(const Block& b, const Candidate& c, float decode, double& max_error) {
    Measured in_memory;  // apart from the one that registers hold
    measure_into(b.at, c, decode, &in_memory, &max_error);
    return in_memory;
}

// A magnitude below infinity as float64; less than 2^-126 may come wrong by as much, where x has fewer bits than FP32.
__device__ double widen_magnitude(float a) {
    if (INPUT == 2) return widen(a);
    return __hiloint2double((bits(a) >> 3) + (1023 - 127 << 20), 0);  // two integer operations, a fourth of a conversion
}

// A block whose numbers are of ordinary size; false where they are not. Unless CLIP, none is scaled to more than 6. Errors
// are FP32 differences. They are exact where a decoded value is 0, or not above twice x nor below half of it: so it is but
// for values clipped by as much, and for some that were rounded up to just over twice their size, of which an FP32 x is
// told by the difference itself; x of fewer bits than FP32 has no smaller ones than the decoded value.
template <bool CLIP>
__device__ __forceinline__ bool measure_ordinary(const Block& b, const Candidate& c, float decode, Measured& m) {
    float most = multiply_ieee(6 * c.scale, decode);  // decoded
    bool ordinary = b.bmax * c.output < 11 && most >= 0x1p-100f && most <= LARGEST;
    if (__builtin_expect(!ordinary && (c.byte || !(c.output <= LARGEST)), 0)) return false;  // of scale 0 all is lost
    unsigned quarters[4] = {}, inexact = 0;
    float clipped = 0, largest = 0;
    double err_sq = 0, err_abs = 0, x_err = 0;  // as in `read_block`; x_err of signed errors
    for (int i = 0; i < BLOCK; i++) {
        float a = magnitude(element(b.raw, i)), scaled = a * c.output;
        if (CLIP) clipped += above(scaled, 6 * MARGIN);
        Element q = e2m1_magnitude<CLIP>(scaled);
        quarters[i / 4] += q.code << i % 4 * 4;
        float a_hat = multiply_ieee(q.value * c.scale, decode), diff = subtract_ieee(a_hat, a);
        if (INPUT == 2) inexact |= bits(subtract_ieee(a_hat, diff)) ^ bits(a);
        largest = larger(largest, magnitude(diff));
        double err = widen(diff);
        err_sq = __fma_rn(err, err, err_sq);
        err_abs += fabs(err);
        x_err = __fma_rn(widen_magnitude(a), err, x_err);
    }
    uint2 codes = pack(quarters);
    double x_dot_x_hat = c.byte ? b.x_sq + x_err : 0, x_hat_sq = c.byte ? x_dot_x_hat + (x_err + err_sq) : 0;
    int lost = c.byte ? int(clipped) + (b.nonzero - __popc(nonzero_codes(codes)) << 16) : b.nonzero << 16;
    m = {err_sq, err_abs, x_hat_sq, x_dot_x_hat, largest, lost, {codes.x | b.signs.x, codes.y | b.signs.y}};
    return !inexact;
}

template <bool CLIP>
__device__ __forceinline__ Measured measure(const Block& b, const Candidate& c, float decode, double& max_error) {
    Measured m;
    if (__builtin_expect(measure_ordinary<CLIP>(b, c, decode, m), 1)) return m;
    if (bits(b.bmax) == 0) return {0, 0, 0, 0, 0, 0, b.signs};
    return measure_any(b, c, decode, max_error);
}

// Whether both candidates decode every element to the same, of ordinary blocks: the scale for 4 is 1.5 times that for
// 6, and codes are those of 0, 1.5, 3 and 6 for 6, and of 0, 1, 2 and 4 for 4.
__device__ bool decode_alike(const Candidate& six, const Candidate& four, uint2 codes6, uint2 codes4) {
    unsigned x = codes6.x & 0x77777777, y = codes6.y & 0x77777777;
    unsigned even = (x ^ (x >> 1 | x >> 2)) | (y ^ (y >> 1 | y >> 2));
    return four.scale == 1.5f * six.scale && !(even & 0x11111111) &&
           (codes4.x & 0x77777777) == (x & 0x66666666) && (codes4.y & 0x77777777) == (y & 0x66666666);
}

struct Preference {
    bool four, doubtful;  // by errors as measured; whether they are too close to tell FlashInfer's choice
};

// `prefers_four` from errors that were measured. A difference of FlashInfer's is off from them by at most 8 e q u + 2 e
// |diff|, and so E by 768 e u + 32 e E (MAE) or 192 e u^2 + 229 e E (MSE): docs/numerics.md.
template <class Recipe, bool PER_TOKEN>
__device__ __forceinline__ Preference preference(const Block& b, const Candidate& six, const Candidate& four,
                                                 const Measured& m6, const Measured& m4, const Row& row) {
    double e6 = Recipe::MSE ? m6.err_sq : m6.err_abs, e4 = Recipe::MSE ? m4.err_sq : m4.err_abs;
    float unit6 = six.scale * row.decode, unit4 = four.scale * row.decode;
    double doubt = Recipe::MSE ? 0x1p-16 * (double(unit6) * unit6 + double(unit4) * unit4 + e6 + e4)
                               : 0x1p-14 * (double(unit6) + unit4) + 0x1p-18 * (e6 + e4);
    bool small = b.bmax < (Recipe::MSE ? 0x1p50f : 0x1p100f);  // FlashInfer's sums do not overflow
    if (PER_TOKEN && !Recipe::SCALED) small = small && row.amax < 0x1p100f;
    bool clear = small && fabs(e6 - e4) > doubt + 0x1p-100, differ = six.byte != four.byte;
    return {differ && e4 < e6, differ && !clear};
}
