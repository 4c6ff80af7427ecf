// NVFP4 with per-block choice (4over6), for one kind of recipe and input; a thread takes a block of 16 features.
//
// Built with -ftz=true -fmad=false: every FP32 operation flushes subnormals and is rounded once, as in FlashInfer's
// kernels. Where the statistics need the unflushed value, PTX without .ftz says so. cuda_job.py defines the kind:
//   INPUT 0 bf16, 1 fp16, 2 fp32; FOUR_OVER_SIX; MSE; SCALED_SCORES (err_use_fast_math); PER_TOKEN; FAST
// Source of the arithmetic: nvfp4viz/arithmetic.py, which names FlashInfer's functions.

constexpr int BLOCK = 16, THREADS = 1 << LOG_THREADS;
constexpr float LARGEST = 0x1.fffffep127f;       // FLT_MAX
constexpr float MARGIN = 1 + 0x1p-20f;           // above a limit by less is FP32 noise, not clipping
constexpr unsigned INFINITY_BITS = 0x7f800000u;  // magnitudes whose bits are at or above are Inf or NaN
#if INPUT == 2
typedef float Input;
#else
typedef unsigned short Input;
#endif

struct Job {                           // mirrored by cuda_job.py
    const Input* x;                    // [tokens, blocks * 16], rows `stride` elements apart
    long long stride, tokens;
    int blocks, log_lanes;             // blocks of a row; 2^log_lanes threads share it
    float caller_scale, full_range;    // s and rn(1/s)
    float score_range, score_factor;   // 6 * the ceiling that scores assume, and about its reciprocal
    float *encode, *decode;            // per token [tokens], written unless null; per tensor [1], read
    float* amax;                       // analyze, per token: [tokens], written, or read where it is `amax_known`
    int amax_known;
    int* not_finite;                   // set to 1 where x holds NaN or Inf, unless null
    unsigned char *codes, *scales;     // quantize: [tokens, blocks * 8], [tokens, blocks]
    double *totals, *err_sq, *x_sq;    // analyze: [CTAs, TOTALS], [tokens], [tokens]
};

// ---- numbers

__device__ unsigned bits(float x) { return __float_as_uint(x); }

__device__ float magnitude(float x) {  // unflushed, unlike fabsf here
    float y;
    asm("abs.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ float larger(float a, float b) {  // unflushed, NaN if either is
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

__device__ float multiply_ieee(float a, float b) {
    float y;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

__device__ double widen(float x) {
    double y;
    asm("cvt.f64.f32 %0, %1;" : "=d"(y) : "f"(x));
    return y;
}

__device__ float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ float reciprocal(float x) { return FAST ? rcp_approx(x) : __frcp_rn(x); }

// Adding this to a rounds a to nearest, ties to even, in a format of MANTISSA bits and least exponent MIN_EXPONENT: the
// sum's last place is the format's step at a. Its low bits then hold the code, since codes count steps.
template <int MANTISSA, int MIN_EXPONENT>
__device__ float rounder(float a) {
    unsigned exponent = bits(fmaxf(a, MIN_EXPONENT ? 0x1p-6f : 1.f)) >> 23;
    unsigned offset = ((23u - MANTISSA) << 23) - (unsigned(127 + MIN_EXPONENT) << MANTISSA);
    return __uint_as_float(exponent * ((1u << 23) + (1u << MANTISSA)) + offset);
}

struct Element {
    float value;    // magnitude
    unsigned code;  // in the lowest 4 bits; those from 23 up are noise
};

__device__ Element e2m1(float scaled) {
    float a = fminf(fabsf(scaled), 6.f);  // NaN gives 6
    float r = rounder<1, 0>(a), sum = a + r;
    return {sum - r, bits(sum) + (bits(scaled) >> 28 & 8)};
}

template <bool CLIP>
__device__ float e2m1_value(float a) {  // the same magnitude in fewer instructions, for a >= 0; unless CLIP, a < 7
    if (CLIP) a = fminf(a, 6.f);
    float power = __uint_as_float(bits(fmaxf(a, 1.f)) & INFINITY_BITS);
    return __fmaf_rn(power, -0x1p22f, __fmaf_rn(power, 0x1p22f, a));
}

// ---- reading x

struct Raw {  // a block as it lies in memory
    unsigned words[BLOCK * sizeof(Input) / 4];
};

__device__ Raw load(const Input* at) {
    Raw raw;
    for (int i = 0; i < sizeof(Raw) / 16; i++) {
        uint4 v = __ldg(reinterpret_cast<const uint4*>(at) + i);
        raw.words[4 * i] = v.x, raw.words[4 * i + 1] = v.y, raw.words[4 * i + 2] = v.z, raw.words[4 * i + 3] = v.w;
    }
    return raw;
}

#if INPUT == 2
__device__ float element(const Input* x) { return *x; }
__device__ float element(const Raw& raw, int i) { return __uint_as_float(raw.words[i]); }

__device__ float amax(const Raw& raw) {
    float result = 0;
    for (int i = 0; i < BLOCK; i++) result = larger(result, magnitude(element(raw, i)));
    return result;
}
#else
__device__ float low_half(unsigned pair) {
    if (INPUT == 0) return __uint_as_float(pair << 16);
    float y;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(y) : "r"(pair));
    return y;
}

__device__ float high_half(unsigned pair) {
    return INPUT == 0 ? __uint_as_float(pair & 0xffff0000u) : low_half(pair >> 16);
}

__device__ float element(const Input* x) { return low_half(*x); }

__device__ float element(const Raw& raw, int i) {
    return i % 2 ? high_half(raw.words[i / 2]) : low_half(raw.words[i / 2]);
}

__device__ float amax(const Raw& raw) {
    unsigned largest = 0;  // of even and of odd columns, in halves
    for (unsigned word : raw.words)
        if (INPUT == 0)
            asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(largest) : "r"(word & 0x7fff7fffu));
        else
            asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(largest) : "r"(word & 0x7fff7fffu));
    return larger(low_half(largest), high_half(largest));
}
#endif

// ---- scales

template <class T, class Combine>
__device__ T across(T value, int log_lanes, Combine combine) {  // over each 2^log_lanes neighbouring threads of the CTA
    __shared__ T warps[THREADS / 32];
    for (int i = 0; i < min(log_lanes, 5); i++) value = combine(value, __shfl_xor_sync(~0u, value, 1 << i));
    if (log_lanes > 5) {
        int first = threadIdx.x >> log_lanes << (log_lanes - 5);
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
        __syncthreads();
        value = warps[first];
#pragma unroll 1
        for (int i = 1; i < 1 << (log_lanes - 5); i++) value = combine(value, warps[first + i]);
        __syncthreads();
    }
    return value;
}

template <class T>
__device__ T add_across(T value, int log_lanes = LOG_THREADS) {
    return across(value, log_lanes, [](T a, T b) { return a + b; });
}

template <class T>
__device__ T max_across(T value, int log_lanes = LOG_THREADS) {
    return across(value, log_lanes, [](T a, T b) { return a < b ? b : a; });
}

struct Row {
    float amax, encode, decode, inverse;  // inverse: 1 / encode as kernels take it, the decode scale but for corners
    float score_range, unit;              // unit: about what E2M1 times block scale is multiplied with in a score
};

constexpr int AHEAD = INPUT == 2 ? 1 : 4;  // blocks of a row that a thread has under way from memory

__device__ float row_amax(const Job& job, long long token, const Input* x, int lane) {
    if (job.amax_known) return token < job.tokens ? job.amax[token] : 0;
    float largest = 0;
    int lanes = 1 << job.log_lanes, blocks = token < job.tokens ? job.blocks : 0;
    for (int first = lane; first < blocks; first += AHEAD * lanes) {
        Raw raw[AHEAD] = {};
        for (int i = 0; i < AHEAD; i++)
            if (first + i * lanes < blocks) raw[i] = load(x + (first + i * lanes) * BLOCK);
        for (int i = 0; i < AHEAD; i++) largest = larger(largest, amax(raw[i]));
    }
    return __uint_as_float(max_across(bits(largest), job.log_lanes));  // bits of magnitudes sort as they do
}

__device__ Row row_scales(const Job& job, long long token, const Input* x, int lane) {
    Row row;
    if (PER_TOKEN) {
        bool first = lane == 0 && token < job.tokens;
        row.amax = row_amax(job, token, x, lane);
        if (job.amax && first) job.amax[token] = row.amax;
        if (FAST) {
            row.decode = row.amax * job.caller_scale;
            row.encode = row.decode == 0 ? 0 : rcp_approx(row.decode);
        } else {
            row.encode = fminf(__fdiv_rn(job.full_range, row.amax), LARGEST);
            if (row.encode == 0) row.encode = 1;
            row.decode = row.amax == 0 ? 0 : __frcp_rn(row.encode);
        }
        if (job.encode && first) job.encode[token] = row.encode, job.decode[token] = row.decode;
    } else {
        row.encode = *job.encode, row.decode = *job.decode;
    }
    row.inverse = reciprocal(row.encode);
    row.score_range = job.score_range;
    row.unit = row.inverse;
    if (PER_TOKEN && !SCALED_SCORES)  // not a number of use where E2M1 * block scale * amax may overflow in an exact score
        row.unit = row.amax < 0x1p100f ? row.amax * job.score_factor : __uint_as_float(INFINITY_BITS);
    return row;
}

struct Candidate {
    float h, scale, output;  // real-valued block scale, the E4M3 value it rounds to, what x is multiplied with
    unsigned byte;
};

__device__ Candidate candidate(float h, float bmax, const Row& row) {
    float a = fminf(h, 448.f), r = rounder<3, -6>(a), sum = a + r, scale = sum - r;
    float output = reciprocal(scale * row.inverse);
    if (!FAST) output = fminf(output, LARGEST);
    return {h, scale, bmax == 0 ? 0 : output, bits(sum) & 0xff};
}

__device__ float scale_to_six(float bmax, const Row& row) {
    if (FAST) return row.encode * (bmax * rcp_approx(6.f));
    if (FOUR_OVER_SIX) return __fdiv_rn(bmax, 6.f) * row.encode;
    return bmax * (row.encode * (1.f / 6.f));
}

// ---- the choice between 6 and 4

// What FlashInfer computes, step by step. Signs are left out: negating x negates every difference.
__device__ __noinline__ float exact_error(const Input* x, float scale, float output, Row row) {
    float total = 0;
#pragma unroll 1
    for (int i = 0; i < BLOCK; i++) {
        float a = fabsf(element(x + i)), value = e2m1_value<true>(a * output) * scale, diff;
        if (SCALED_SCORES)
            diff = value - a * row.encode;
        else if (PER_TOKEN)
            diff = __fdiv_rn(value * row.amax, row.score_range) - a;
        else
            diff = value * row.inverse - a;
        total += MSE ? diff * diff : fabsf(diff);
    }
    return total;
}

template <bool CLIP>
__device__ float near_error(const Raw& raw, float output, float unit) {
    float total = 0;
    for (int i = 0; i < BLOCK; i++) {
        float a = fabsf(element(raw, i)), diff = __fmaf_rn(e2m1_value<CLIP>(a * output), unit, -a);
        total = MSE ? __fmaf_rn(diff, diff, total) : total + fabsf(diff);
    }
    return total;
}

// Both errors are first computed with fewer roundings than FlashInfer's. The two ways differ by less than `doubt`: with
// e = 2^-24, u = unit, q = E2M1 and E the block's error, a difference is off by at most 5 e q u + 2 e |diff|, and so E by
// 480 e u + 32 e E (MAE) or 120 e u^2 + 157 e E (MSE). Errors closer than that, and overflown ones, are computed exactly;
// so are those near 2^-100, where flushing shows.
__device__ bool prefers_four(const Raw& raw, const Input* at, float bmax, Candidate six, Candidate four, const Row& row) {
    if (six.byte == four.byte) return false;  // both are saturated, or 0
    float unit6 = six.scale * row.unit, unit4 = four.scale * row.unit, error6, error4;
    if (bmax * fmaxf(six.output, four.output) < 7) {
        error6 = near_error<false>(raw, six.output, unit6), error4 = near_error<false>(raw, four.output, unit4);
    } else {
        error6 = near_error<true>(raw, six.output, unit6), error4 = near_error<true>(raw, four.output, unit4);
    }
    float doubt = MSE ? 0x1p-17f * (unit6 * unit6 + unit4 * unit4) + 0x1p-16f * (error6 + error4)
                      : 0x1p-15f * (unit6 + unit4) + 0x1p-18f * (error6 + error4);
    if (fabsf(error6 - error4) > doubt + 0x1p-100f) return error4 < error6;
    return exact_error(at, four.scale, four.output, row) < exact_error(at, six.scale, six.output, row);
}

struct Choice {
    Candidate six, four, chosen;
    bool dropped;  // an all-zero block of 4over6, whose codes are 0 whatever its signs
};

__device__ Choice choose(const Raw& raw, const Input* at, float bmax, const Row& row) {
    Choice c;
    c.six = c.four = c.chosen = candidate(scale_to_six(bmax, row), bmax, row);
    c.dropped = FOUR_OVER_SIX && bmax == 0;
    if (FOUR_OVER_SIX && !c.dropped) {
        c.four = candidate(c.six.h * 1.5f, bmax, row);
        if (prefers_four(raw, at, bmax, c.six, c.four, row)) c.chosen = c.four;
    }
    return c;
}

__device__ uint2 pack(const unsigned (&quarters)[4]) {
    return {__byte_perm(quarters[0], quarters[1], 0x5410), __byte_perm(quarters[2], quarters[3], 0x5410)};
}
