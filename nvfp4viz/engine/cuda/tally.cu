// What a CTA of `analyze` counts and sums of each recipe, in shared memory.

enum { SCALES = 0, PAIRS = 256, BLOCK_NMSE = 512, TOKEN_NMSE = 512 + BINS, HISTOGRAMS = 512 + 2 * BINS };  // their starts
enum { FOUR_SATURATED = HISTOGRAMS, FOUR_SATURATED_CHOSEN, SCALE_SATURATED, CLIPPED, FLUSHED, COUNTS };    // of a recipe
enum { NOWHERE = COUNTS };                                           // what is not counted
enum { NONZERO = N * COUNTS, NONZERO_BLOCKS, NOT_FINITE, COLUMNS };  // of a segment, after those of its recipes
enum { ERR_ABS, X_HAT_SQ, X_DOT_X_HAT, SUMS };                       // of a recipe; then N maximal errors, and x's amax
constexpr int VALUES = N * SUMS + N + 1;
constexpr float SCALE_LIMIT = 448 * MARGIN;

struct OfRecipe {
    double err_sq[THREADS];      // of a thread's part of a row
    double sums[SUMS][THREADS];  // of all that a thread saw
    uint2 few[THREADS];          // counts: `lost` as in Measured, and `saturated` as in Taken
    float max_error[THREADS];    // of ordinary blocks
    unsigned long long max_error_of_others;  // bits of float64
    unsigned counts[COUNTS + 1];
};

struct Shared {
    OfRecipe recipes[N];
    double x_sq[THREADS];                                               // of a thread's part of a row
    float encode[G][THREADS], decode[G][THREADS], inverse[G][THREADS];  // of each thread's row
    double values[THREADS / 32][VALUES];
    unsigned own[3];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "plan.py asks for as much");

__device__ int nmse_bin(double nmse) {
    return min(max((__double2hiint(nmse) >> (MANTISSA_SHIFT - 32)) - FIRST_BIN, 0), BINS - 1);
}

// What a recipe takes of a block: a candidate, and where it counts.
struct Taken {
    Measured m;
    unsigned scale, bin;  // places among counts, in SCALES and in BLOCK_NMSE or at NOWHERE
    unsigned saturated;   // blocks whose candidate for 4 saturates, 2^10 times those that take it, 2^20 times any taken
};

__device__ Taken either(bool second, const Taken& a, const Taken& b) {  // number by number: both stay in registers
    auto of = [&](auto x, auto y) { return second ? y : x; };
    const Measured &m = a.m, &n = b.m;
    return {{of(m.err_sq, n.err_sq), of(m.err_abs, n.err_abs), of(m.x_hat_sq, n.x_hat_sq),
             of(m.x_dot_x_hat, n.x_dot_x_hat), of(m.max_error, n.max_error), of(m.lost, n.lost),
             {of(m.codes.x, n.codes.x), of(m.codes.y, n.codes.y)}},
            of(a.scale, b.scale), of(a.bin, b.bin), of(a.saturated, b.saturated)};
}

__device__ Shared& shared_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return *reinterpret_cast<Shared*>(memory);
}

// The same, from a register: the compiler works an address of its own out anew at each use.
__device__ Shared& shared_memory_once() {
    unsigned address = __shfl_sync(~0u, unsigned(__cvta_generic_to_shared(&shared_memory())), 0);
    return *reinterpret_cast<Shared*>(__cvta_shared_to_generic(address));
}

// Empties this thread's `few` of a recipe into the CTA's counts.
__device__ __noinline__ void add_few(int r) {
    OfRecipe& to = shared_memory().recipes[r];
    uint2& few = to.few[threadIdx.x];
    atomicAdd(&to.counts[CLIPPED], few.x & 0xffff);
    atomicAdd(&to.counts[FLUSHED], few.x >> 16);
    atomicAdd(&to.counts[FOUR_SATURATED], few.y & 0x3ff);
    atomicAdd(&to.counts[FOUR_SATURATED_CHOSEN], few.y >> 10 & 0x3ff);
    atomicAdd(&to.counts[SCALE_SATURATED], few.y >> 20);
    few = {0, 0};
}

__device__ __noinline__ void add_max_error(int r, double max_error) {
    unsigned long long* to = &shared_memory().recipes[r].max_error_of_others;
    atomicMax(to, (unsigned long long)__double_as_longlong(max_error));
}

__device__ __forceinline__ void count_pairs(unsigned* pairs, unsigned codes) {
    for (int i = 0; i < 4; i++) atomicAdd(&pairs[__byte_perm(codes, 0, 0x4440 + i)], 1u);
}

// Adds to recipe r what it took of a block. Without branches but for what is rare: they cost more than the sums.
__device__ __forceinline__ void count_block(Shared& shared, int r, const Taken& taken, double max_error, bool unusual) {
    OfRecipe& to = shared.recipes[r];
    const Measured& m = taken.m;
    int i = threadIdx.x;
    double err_sq = to.err_sq[i], err_abs = to.sums[ERR_ABS][i];
    double x_hat_sq = to.sums[X_HAT_SQ][i], x_dot_x_hat = to.sums[X_DOT_X_HAT][i];
    uint2 few = to.few[i];
    float most = to.max_error[i];
    count_pairs(to.counts + PAIRS, m.codes.x);
    count_pairs(to.counts + PAIRS, m.codes.y);
    atomicAdd(&to.counts[taken.scale], 1u);
    atomicAdd(&to.counts[taken.bin], 1u);
    few.x += m.lost, few.y += taken.saturated;
    to.err_sq[i] = err_sq + m.err_sq, to.sums[ERR_ABS][i] = err_abs + m.err_abs;
    to.sums[X_HAT_SQ][i] = x_hat_sq + m.x_hat_sq, to.sums[X_DOT_X_HAT][i] = x_dot_x_hat + m.x_dot_x_hat;
    to.few[i] = few;
    to.max_error[i] = larger(most, m.max_error);
    bool full = few.x & 0x80008000u | few.y & (1u << 9 | 1u << 19 | 1u << 29);
    if (__builtin_expect(full || unusual, 0)) {
        if (full) add_few(r);
        if (unusual) add_max_error(r, max_error);
    }
}

// 1 / x of about 40 bits.
__device__ double about_reciprocal(double x) {
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return __fma_rn(__fma_rn(-x, y, 1.), y, y);
}

// Whether bits 2^-20 above or below these of a quotient may be of another bin.
__device__ bool near_edge(double nmse) {
    constexpr unsigned BELOW = (1u << (MANTISSA_SHIFT - 32)) - 1;
    return (unsigned(__double2hiint(nmse)) + 1 & BELOW) <= 1;
}

__device__ __forceinline__ Taken take(const Block& b, const Candidate& c, const Measured& m, double reciprocal) {
    double nmse = m.err_sq * reciprocal;
    if (__builtin_expect(near_edge(nmse), 0)) nmse = m.err_sq / b.x_sq;
    unsigned saturated = b.nonzero && c.h > SCALE_LIMIT ? 1u << 20 : 0;
    return {m, SCALES + 2 * (c.byte & 127), b.x_sq > 0 ? BLOCK_NMSE + nmse_bin(nmse) : NOWHERE, saturated};
}

// A recipe without 4over6, whose scale is another one than that for 6 of the recipes with it.
template <bool FAST>
__device__ __noinline__ void count_apart(int r, const Input* at, float h, Row row) {
    Raw raw = load(at);
    Block b = read_block(raw, at, amax(raw));
    double max_error = 0;
    Candidate plain = candidate<FAST>(h, b.bmax, row);
    Measured m = measure_any(b, plain, row.decode, max_error);
    count_block(shared_memory(), r, take(b, plain, m, 1 / b.x_sq), max_error, max_error > 0);
}
