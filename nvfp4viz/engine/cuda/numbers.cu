// Numbers and reading: FP32 as FlashInfer's kernels compute it, and blocks of 16 features as they lie in memory.
//
// Built with -ftz=true -fmad=false: every FP32 operation flushes subnormals and is rounded once, as in FlashInfer's
// kernels. Where the statistics need the unflushed value, PTX without .ftz says so. plan.py defines INPUT: 0 bf16, 1
// fp16, 2 fp32. Source of the arithmetic: nvfp4viz/nvfp4/arithmetic.py, which names FlashInfer's functions.

constexpr int BLOCK = 16, THREADS = 1 << LOG_THREADS;
constexpr float LARGEST = 0x1.fffffep127f;       // FLT_MAX
constexpr float MARGIN = 1 + 0x1p-20f;           // above a limit by less is FP32 noise, not clipping
constexpr unsigned INFINITY_BITS = 0x7f800000u;  // magnitudes whose bits are at or above are Inf or NaN
#if INPUT == 2
typedef float Input;
#else
typedef unsigned short Input;
#endif

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

template <bool FAST>
__device__ float reciprocal(float x) {
    return FAST ? rcp_approx(x) : __frcp_rn(x);
}

__device__ float subtract_ieee(float a, float b) {
    float y;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

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

template <bool CLIP>
__device__ Element e2m1_magnitude(float scaled) {  // unless CLIP, of 0 to 6
    float a = CLIP ? fminf(fabsf(scaled), 6.f) : scaled;  // NaN gives 6
    float r = rounder<1, 0>(a), sum = a + r;
    return {sum - r, bits(sum)};
}

__device__ Element e2m1(float scaled) {
    Element q = e2m1_magnitude<true>(scaled);
    q.code += bits(scaled) >> 28 & 8;
    return q;
}

// 1 where a is above the limit, else 0; both below 2^100, the limit in steps of 2^-22.
__device__ float above(float a, float limit) {
    float y;
    asm("fma.rn.ftz.sat.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(0x1p22f), "f"(-limit * 0x1p22f));
    return y;
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

__device__ bool has_zero(const Raw& raw) { return true; }  // perhaps: whoever asks looks at each element

__device__ uint2 sign_bits(const Raw& raw) {  // bit 3 of each element's code
    unsigned signs[2] = {};
    for (int i = 0; i < BLOCK; i++) signs[i / 8] |= raw.words[i] >> 31 << (i % 8 * 4 + 3);
    return {signs[0], signs[1]};
}

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

__device__ bool has_zero(const Raw& raw) {
    unsigned smallest = 0x7fff7fff;  // of even and of odd columns, in halves; as integers, since subnormals are no zeros
    for (unsigned word : raw.words) smallest = __vminu2(smallest, word & 0x7fff7fffu);
    return !(smallest & 0xffff) || !(smallest >> 16);
}

__device__ unsigned sign_bits(const unsigned* words) {  // of 8 elements: bit 3 of each one's code
    unsigned a = __byte_perm(words[0], words[1], 0x7351), b = __byte_perm(words[2], words[3], 0x7351);
    unsigned even = __byte_perm(a, b, 0x5410), odd = __byte_perm(a, b, 0x7632);
    return (even >> 4 & 0x08080808) | (odd & 0x80808080);
}

__device__ uint2 sign_bits(const Raw& raw) { return {sign_bits(raw.words), sign_bits(raw.words + 4)}; }

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
