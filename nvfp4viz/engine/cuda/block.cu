// A block of 16 features: its FP32 and E4M3 scales, its candidates 6 and 4, and the choice between them.
//
// plan.py says what a launch is compiled for.

// A recipe is of one of TYPES types, by the choice that it makes: 0 none, always 6; else 1 and flags.
constexpr int TYPES = 9;

template <int T>
struct Type {
    static constexpr bool OVER = T > 0, MSE = T && (T - 1) & 1, SCALED = T && (T - 1) & 2;
    static constexpr bool OWN_UNIT = T && (T - 1) & 4;  // scores assume a ceiling which is not that of the scale
};

// Groups whose scales are computed alike are a family; they run the same code, one after the other.
template <int I>
struct Family {
    static constexpr unsigned FLAGS = (I < 2 ? FAMILIES_LOW : FAMILIES_HIGH) >> I % 2 * 32;
    static constexpr bool PER_TOKEN = FLAGS & 1, FAST = FLAGS & 2;
    static constexpr int BEGIN = FLAGS >> 2 & 15, END = FLAGS >> 6 & 15, TYPES_SEEN = FLAGS >> 10;  // groups; a bit a type
    static constexpr bool OVER = TYPES_SEEN > 1;
};

template <int I>
struct Index {
    static constexpr int VALUE = I;
};

template <int I, class F>
__device__ __forceinline__ void for_each(F work) {  // work(Index<0>), ..., work(Index<I - 1>)
    if constexpr (I > 0) for_each<I - 1>(work), work(Index<I - 1>{});
}

struct Scaling {                     // of a group of recipes that share it
    float caller_scale, full_range;  // s and rn(1/s)
    float *encode, *decode;          // per token [tokens], written by `quantize`; per tensor [1], read
};

struct Scoring {          // of a recipe
    float range, factor;  // 6 * the ceiling that scores assume, and about its reciprocal
};

struct Row {  // of a token, in a group
    float amax, encode, decode;
    float inverse;  // 1 / encode as kernels take it, the decode scale but for corners
};

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

constexpr int AHEAD = INPUT == 2 ? 1 : 4;  // blocks of a row that a thread has under way from memory

__device__ float row_amax(const Input* x, int blocks, int lane, int log_lanes) {
    float largest = 0;
    int lanes = 1 << log_lanes;
    for (int first = lane; first < blocks; first += AHEAD * lanes) {
        Raw raw[AHEAD] = {};
        for (int i = 0; i < AHEAD; i++)
            if (first + i * lanes < blocks) raw[i] = load(x + (first + i * lanes) * BLOCK);
        for (int i = 0; i < AHEAD; i++) largest = larger(largest, amax(raw[i]));
    }
    unsigned all = across(bits(largest), log_lanes, [](unsigned a, unsigned b) { return a < b ? b : a; });
    return __uint_as_float(all);  // bits of magnitudes sort as they do
}

template <bool PER_TOKEN, bool FAST>
__device__ Row row_scales(const Scaling& scaling, float amax) {
    Row row = {amax};
    if (!PER_TOKEN) {
        row.encode = *scaling.encode, row.decode = *scaling.decode;
    } else if (FAST) {
        row.decode = amax * scaling.caller_scale;
        row.encode = row.decode == 0 ? 0 : rcp_approx(row.decode);
    } else {
        row.encode = fminf(__fdiv_rn(scaling.full_range, amax), LARGEST);
        if (row.encode == 0) row.encode = 1;
        row.decode = amax == 0 ? 0 : __frcp_rn(row.encode);
    }
    row.inverse = reciprocal<FAST>(row.encode);
    return row;
}

struct Part {                 // of a row, that a thread works on: blocks lane, lane + lanes, ...
    long long token;
    const Input* x;           // the row
    int lane, lanes, blocks;  // blocks of the row, 0 after the last token
};

template <class Job>
__device__ __forceinline__ Part part_of_row(const Job& job) {
    int lanes = 1 << job.log_lanes;
    long long token = ((long long)blockIdx.x << (LOG_THREADS - job.log_lanes)) + (threadIdx.x >> job.log_lanes);
    return {token, job.x + token * job.stride, int(threadIdx.x) & (lanes - 1), lanes, token < job.tokens ? job.blocks : 0};
}

template <class Group, class Job>
__device__ __forceinline__ Row read_row(const Job& job, const Part& part) {
    float largest = Group::PER_TOKEN ? row_amax(part.x, part.blocks, part.lane, job.log_lanes) : 0;
    return row_scales<Group::PER_TOKEN, Group::FAST>(job.scaling, largest);
}

struct Candidate {
    float h, scale, output;  // real-valued block scale, the E4M3 value it rounds to, what x is multiplied with
    unsigned byte;
};

__device__ Element e4m3(float h) {  // its byte in the lowest 8 bits
    float a = fminf(h, 448.f), r = rounder<3, -6>(a), sum = a + r;
    return {sum - r, bits(sum) & 0xff};
}

template <bool FAST>
__device__ Candidate candidate(float h, float bmax, const Row& row) {
    Element rounded = e4m3(h);
    float output = reciprocal<FAST>(rounded.value * row.inverse);
    if (!FAST) output = fminf(output, LARGEST);
    return {h, rounded.value, bmax == 0 ? 0 : output, rounded.code};
}

template <bool OVER, bool FAST>
__device__ float scale_to_six(float bmax, float sixth, const Row& row) {  // sixth of bmax: 0 will do unless OVER
    if (FAST) return row.encode * (bmax * rcp_approx(6.f));
    return OVER ? sixth * row.encode : bmax * (row.encode * (1.f / 6.f));
}

// ---- the choice between 6 and 4

// What FlashInfer computes of one element, step by step. Signs are left out: negating x negates every difference.
template <bool MSE, bool SCALED, bool PER_TOKEN>
__device__ __forceinline__ float exact_term(float x, float scale, float output, const Row& row, float range) {
    float a = fabsf(x), value = e2m1_value<true>(a * output) * scale, diff;
    if (SCALED)
        diff = value - a * row.encode;
    else if (PER_TOKEN)
        diff = __fdiv_rn(value * row.amax, range) - a;
    else
        diff = value * row.inverse - a;
    return MSE ? diff * diff : fabsf(diff);
}

struct Rivals {  // of candidates for 6 and for 4
    float scale6, output6, scale4, output4;
};

// Whether FlashInfer's error for 4 is below that for 6, by one thread alone.
template <bool MSE, bool SCALED, bool PER_TOKEN>
__device__ __noinline__ bool exact_choice(const Input* x, Rivals of, Row row, float range) {
    float six = 0, four = 0;
    for (int i = 0; i < BLOCK; i++) {
        six += exact_term<MSE, SCALED, PER_TOKEN>(element(x + i), of.scale6, of.output6, row, range);
        four += exact_term<MSE, SCALED, PER_TOKEN>(element(x + i), of.scale4, of.output4, row, range);
    }
    return four < six;
}

// The same of thread `from`'s block, by all 32 of a warp: a term each, added in FlashInfer's order.
template <bool MSE, bool SCALED, bool PER_TOKEN>
__device__ __noinline__ bool exact_choice_together(const Input* x, Rivals of, Row row, float range, int from) {
    auto theirs = [&](float value) { return __shfl_sync(~0u, value, from); };
    x = reinterpret_cast<const Input*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(x), from));
    of = {theirs(of.scale6), theirs(of.output6), theirs(of.scale4), theirs(of.output4)};
    row = {theirs(row.amax), theirs(row.encode), 0, theirs(row.inverse)};
    bool for_four = threadIdx.x & 16;
    float scale = for_four ? of.scale4 : of.scale6, output = for_four ? of.output4 : of.output6, total = 0;
    float term = exact_term<MSE, SCALED, PER_TOKEN>(element(x + threadIdx.x % 16), scale, output, row, range);
    for (int i = 0; i < BLOCK; i++) total += __shfl_sync(~0u, term, i, 16);
    return __shfl_sync(~0u, total, 16) < __shfl_sync(~0u, total, 0);
}

// `choice`, but FlashInfer's where errors are too close (`doubtful`). Few threads have such a block, so that a warp whose
// threads are all here works on each of them together.
template <class Recipe, bool PER_TOKEN>
__device__ __forceinline__ bool settle(bool choice, bool doubtful, const Input* at, const Candidate& six,
                                       const Candidate& four, const Row& row, float range) {
    Rivals of = {six.scale, six.output, four.scale, four.output};
    if (__activemask() != ~0u)
        return doubtful ? exact_choice<Recipe::MSE, Recipe::SCALED, PER_TOKEN>(at, of, row, range) : choice;
    for (unsigned rest = __ballot_sync(~0u, doubtful); rest; rest &= rest - 1) {
        int from = __ffs(rest) - 1;
        bool theirs = exact_choice_together<Recipe::MSE, Recipe::SCALED, PER_TOKEN>(at, of, row, range, from);
        if (threadIdx.x % 32 == from) choice = theirs;
    }
    return choice;
}

// What about E2M1 times block scale is multiplied with in a score; infinite where an exact score may overflow.
template <class Recipe, bool PER_TOKEN>
__device__ float score_unit(const Row& row, const Scoring& scoring) {
    if (!PER_TOKEN || Recipe::SCALED) return row.inverse;
    return row.amax < 0x1p100f ? row.amax * scoring.factor : __uint_as_float(INFINITY_BITS);
}

struct Near {
    float six, four;   // errors
    unsigned unequal;  // 0 where both candidates decode every element to the same
};

template <bool MSE, bool CLIP>
__device__ Near near_errors(const Raw& raw, const Candidate& six, const Candidate& four, float unit) {
    Near near = {};
    for (int i = 0; i < BLOCK; i++) {
        float a = fabsf(element(raw, i));
        float value6 = e2m1_value<CLIP>(a * six.output) * six.scale, diff6 = __fmaf_rn(value6, unit, -a);
        float value4 = e2m1_value<CLIP>(a * four.output) * four.scale, diff4 = __fmaf_rn(value4, unit, -a);
        near.six = MSE ? __fmaf_rn(diff6, diff6, near.six) : near.six + fabsf(diff6);
        near.four = MSE ? __fmaf_rn(diff4, diff4, near.four) : near.four + fabsf(diff4);
        near.unequal |= bits(value6) ^ bits(value4);
    }
    return near;
}

// Both errors are first computed with fewer roundings than FlashInfer's. The two ways differ by less than `doubt`: with
// e = 2^-24, u = unit, q = E2M1 and E the block's error, a difference is off by at most 5 e q u + 2 e |diff|, and so E by
// 480 e u + 32 e E (MAE) or 120 e u^2 + 157 e E (MSE). Errors closer than that, and overflown ones, are computed exactly;
// so are those near 2^-100, where flushing shows. Candidates that decode every element to the same tie in any arithmetic.
template <class Recipe, bool PER_TOKEN>
__device__ bool prefers_four(const Raw& raw, const Input* at, float bmax, const Candidate& six, const Candidate& four,
                             const Row& row, const Scoring& scoring) {
    constexpr bool MSE = Recipe::MSE;
    float unit = score_unit<Recipe, PER_TOKEN>(row, scoring), unit6 = six.scale * unit, unit4 = four.scale * unit;
    bool clip = __any_sync(__activemask(), !(bmax * fmaxf(six.output, four.output) < 7));  // a warp goes one way
    Near near = clip ? near_errors<MSE, true>(raw, six, four, unit) : near_errors<MSE, false>(raw, six, four, unit);
    float doubt = MSE ? 0x1p-17f * (unit6 * unit6 + unit4 * unit4) + 0x1p-16f * (near.six + near.four)
                      : 0x1p-15f * (unit6 + unit4) + 0x1p-18f * (near.six + near.four);
    bool clear = fabsf(near.six - near.four) > doubt + 0x1p-100f, alike = six.byte == four.byte || !near.unequal;
    return settle<Recipe, PER_TOKEN>(!alike && near.four < near.six, !alike && !clear, at, six, four, row, scoring.range);
}

template <class Recipe, class Group>
__device__ __forceinline__ Candidate choose(const Raw& raw, const Input* at, float bmax, const Row& row,
                                            const Scoring& scoring) {
    float sixth = Recipe::OVER ? __fdiv_rn(bmax, 6.f) : 0, h = scale_to_six<Recipe::OVER, Group::FAST>(bmax, sixth, row);
    Candidate six = candidate<Group::FAST>(h, bmax, row);
    if (!Recipe::OVER || bmax == 0) return six;
    Candidate four = candidate<Group::FAST>(six.h * 1.5f, bmax, row);
    return prefers_four<Recipe, Group::PER_TOKEN>(raw, at, bmax, six, four, row, scoring) ? four : six;
}

__device__ uint2 pack(const unsigned (&quarters)[4]) {
    return {__byte_perm(quarters[0], quarters[1], 0x5410), __byte_perm(quarters[2], quarters[3], 0x5410)};
}
