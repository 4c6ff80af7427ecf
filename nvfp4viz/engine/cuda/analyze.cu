// `analyze` counts and sums what N recipes do to tokens, in one pass: a token's amax once, each candidate of recipes that
// share their scales once, all scores and statistics from them. Tokens of several segments are told apart.

enum { SCALES = 0, PAIRS = 256, BLOCK_NMSE = 512, TOKEN_NMSE = 512 + BINS, HISTOGRAMS = 512 + 2 * BINS };  // their starts
enum { FOUR_SATURATED = HISTOGRAMS, FOUR_SATURATED_CHOSEN, SCALE_SATURATED, CLIPPED, FLUSHED, COUNTS };    // of a recipe
enum { NOWHERE = COUNTS };                                           // what is not counted
enum { NONZERO = N * COUNTS, NONZERO_BLOCKS, NOT_FINITE, COLUMNS };  // of a segment, after those of its recipes
enum { ERR_ABS, X_HAT_SQ, X_DOT_X_HAT, SUMS };                       // of a recipe; then N maximal errors, and x's amax
constexpr int VALUES = N * SUMS + N + 1;
constexpr float SCALE_LIMIT = 448 * MARGIN;

struct Analyze {                     // mirrored by plan.py
    const Input* x;                  // [tokens, blocks * 16], rows `stride` elements apart
    long long stride, tokens;
    int blocks, log_lanes, parts;    // blocks of a row; 2^log_lanes threads share it; CTAs a segment
    const int* offsets;              // [segments + 1], of rows; null for one segment of all
    unsigned* counts;                // [segments, COLUMNS], added to
    double *sums, *err_sq, *x_sq;    // [segments, parts, VALUES], [N, tokens], [tokens]: err_sq and x_sq of each token
    double *indices, *next;          // [segments], where `next` is not null: the index of a segment's first token is kept
    long long next_stride;
    Scaling scaling[G];
    Scoring scoring[N];
    signed char recipes[G][TYPES];   // of each group, the recipe of each type; -1 where there is none
    signed char first[G + 1];        // recipe of each group, whose recipes are neighbours
};
static_assert(sizeof(Analyze) == ANALYZE_BYTES, "plan.py mirrors it");

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

// Recipes of group g that take candidate 4, a bit each.
template <class Mine>
__device__ __forceinline__ unsigned that_take_four(const Analyze& job, int g, const Block& b, const Candidate& six,
                                                   const Candidate& four, const Measured& m6, const Measured& m4,
                                                   const Row& row) {
    unsigned found = 0, doubtful = 0;
    for_each<TYPES>([&](auto index) {
        constexpr int T = decltype(index)::VALUE;
        if constexpr (T > 0 && (Mine::TYPES_SEEN >> T & 1)) {
            int r = job.recipes[g][T];
            if constexpr (Type<T>::OWN_UNIT) {
                if (r < 0 || b.bmax == 0) return;
                found |= prefers_four<Type<T>, Mine::PER_TOKEN>(b.raw, b.at, b.bmax, six, four, row, job.scoring[r]) << r;
            } else {
                Preference by = preference<Type<T>, Mine::PER_TOKEN>(b, six, four, m6, m4, row);
                unsigned bit = r < 0 ? 0 : 1u << r;
                found |= by.four ? bit : 0, doubtful |= by.doubtful ? bit : 0;
            }
        }
    });
    if (__builtin_expect(!__any_sync(__activemask(), doubtful), 1)) return found;
    if (doubtful && decode_alike(six, four, m6.codes, m4.codes)) found &= ~doubtful, doubtful = 0;
    for_each<TYPES>([&](auto index) {
        constexpr int T = decltype(index)::VALUE;
        if constexpr (T > 0 && (Mine::TYPES_SEEN >> T & 1) && !Type<T>::OWN_UNIT) {
            int r = job.recipes[g][T];
            if (r < 0) return;
            bool choice = settle<Type<T>, Mine::PER_TOKEN>(found >> r & 1, doubtful >> r & 1, b.at, six, four, row,
                                                           job.scoring[r].range);
            found = found & ~(1u << r) | unsigned(choice) << r;
        }
    });
    return found;
}

// One block under the recipes of group g.
template <class Mine>
__device__ __forceinline__ void count_group(const Analyze& job, int g, const Block& b, const Row& row, double reciprocal,
                                            Shared& shared) {
    constexpr bool FAST = Mine::FAST, PLAIN = Mine::TYPES_SEEN & 1;
    int r = job.first[g], end = job.first[g + 1];
    double max6 = 0, max4 = 0;  // errors, of blocks that are not ordinary
    Candidate six = candidate<FAST>(scale_to_six<Mine::OVER, FAST>(b.bmax, b.sixth, row), b.bmax, row);
    Taken taken6 = take(b, six, measure<true>(b, six, row.decode, max6), reciprocal);
    if (PLAIN && job.recipes[g][0] >= 0) {  // the first of its group
        float h = Mine::OVER ? scale_to_six<false, FAST>(b.bmax, 0, row) : six.h;
        Taken plain = taken6;
        plain.saturated = b.nonzero && h > SCALE_LIMIT ? 1u << 20 : 0;
        if (Mine::OVER && e4m3(h).code != six.byte)
            count_apart<FAST>(r, b.at, h, row);
        else
            count_block(shared, r, plain, max6, max6 > 0);
        r++;
    }
    if (!Mine::OVER) return;
    Candidate four = candidate<FAST>(six.h * 1.5f, b.bmax, row);
    bool clip = __any_sync(__activemask(), !(b.bmax * four.output <= 6));  // seldom; a warp goes one way
    Measured m4 = clip ? measure<true>(b, four, row.decode, max4) : measure<false>(b, four, row.decode, max4);
    Taken taken4 = take(b, four, m4, reciprocal);
    if (taken4.saturated) taken4.saturated = 1u << 20 | 1u << 10 | 1, taken6.saturated |= 1;
    taken4.scale++;
    if (b.bmax == 0) taken6.m.codes = {0, 0};  // whatever the signs
    unsigned takes_four = that_take_four<Mine>(job, g, b, six, four, taken6.m, taken4.m, row);
    bool unusual = max6 + max4 > 0;
#pragma unroll 1
    for (; r < end; r++) {
        bool is_four = takes_four >> r & 1;
        count_block(shared, r, either(is_four, taken6, taken4), is_four ? max4 : max6, unusual);
    }
}

// All blocks of a row that lie with this thread; their x_sq comes back.
__device__ __forceinline__ double count_row(const Analyze& job, const Input* x, float amax, int blocks, int lane,
                                            Shared& shared, int (&own)[3], float& x_amax) {
    double x_sq = 0;
    for (int n = lane; n < blocks; n += 1 << job.log_lanes) {
        Raw raw = load(x + n * BLOCK);
        float bmax = ::amax(raw);
        Block b = read_block(raw, x + n * BLOCK, bmax);
        own[0] += b.nonzero, own[1] += b.nonzero > 0, own[2] += bits(bmax) >= INFINITY_BITS;
        x_amax = larger(x_amax, bmax);
        x_sq += b.x_sq;
        double reciprocal = about_reciprocal(b.x_sq);
        for_each<FAMILY_COUNT>([&](auto index) {
            using Mine = Family<decltype(index)::VALUE>;
#pragma unroll 1
            for (int g = Mine::BEGIN; g < Mine::END; g++) {
                int i = threadIdx.x;
                Row row = {amax, shared.encode[g][i], shared.decode[g][i], shared.inverse[g][i]};
                count_group<Mine>(job, g, b, row, reciprocal, shared);
            }
        });
    }
    return x_sq;
}

// Stores the sums of a row, each by one of the threads that share it, and forgets them.
__device__ __forceinline__ void store_row(const Analyze& job, long long token, int lane, double x_sq, Shared& shared) {
    int thread = threadIdx.x, lanes = 1 << job.log_lanes, first = thread - lane;
    double sums[N + 1];
    for (int r = 0; r <= N; r++) sums[r] = r < N ? shared.recipes[r].err_sq[thread] : x_sq;
    for (int i = 0; i < min(job.log_lanes, 5); i++)
        for (double& sum : sums) sum += __shfl_xor_sync(~0u, sum, 1 << i);
    for (int r = 0; r <= N; r++) (r < N ? shared.recipes[r].err_sq : shared.x_sq)[thread] = sums[r];
    if (lanes > 32) __syncthreads();
    auto whole = [&](const double* of) {
        double sum = of[first];
        for (int i = 32; i < lanes; i += 32) sum += of[first + i];
        return sum;
    };
    for (int r = lane; r <= N && token < job.tokens; r += lanes) {
        double x_sq = whole(shared.x_sq), err_sq = r < N ? whole(shared.recipes[r].err_sq) : 0;
        (r < N ? job.err_sq + r * job.tokens : job.x_sq)[token] = r < N ? err_sq : x_sq;
        if (r < N && x_sq > 0) atomicAdd(&shared.recipes[r].counts[TOKEN_NMSE + nmse_bin(err_sq / x_sq)], 1u);
    }
    __syncwarp();  // else the threads that stored stay apart from the others
    if (lanes > 32) __syncthreads();
    for (int r = 0; r < N; r++) shared.recipes[r].err_sq[thread] = 0;
}

template <bool MAXIMUM>
__device__ void reduce_warp(double value, Shared& shared, int place) {
    for (int i = 16; i; i /= 2) {
        double other = __shfl_xor_sync(~0u, value, i);
        value = MAXIMUM ? (value < other ? other : value) : value + other;
    }
    if (threadIdx.x % 32 == 0) shared.values[threadIdx.x / 32][place] = value;
}

__device__ void add_count(unsigned* to, unsigned value) {  // of every thread
    unsigned sum = __reduce_add_sync(~0u, value);
    if (threadIdx.x % 32 == 0) atomicAdd(to, sum);
}

__device__ void store(const Analyze& job, const int (&own)[3], float x_amax, Shared& shared) {
    int thread = threadIdx.x;
#pragma unroll 1
    for (int r = 0; r < N; r++) {
        OfRecipe& of = shared.recipes[r];
        uint2 few = of.few[thread];
        add_count(&of.counts[CLIPPED], few.x & 0xffff);
        add_count(&of.counts[FLUSHED], few.x >> 16);
        add_count(&of.counts[FOUR_SATURATED], few.y & 0x3ff);
        add_count(&of.counts[FOUR_SATURATED_CHOSEN], few.y >> 10 & 0x3ff);
        add_count(&of.counts[SCALE_SATURATED], few.y >> 20);
        for (int i = 0; i < SUMS; i++) reduce_warp<false>(of.sums[i][thread], shared, r * SUMS + i);
        double of_others = __longlong_as_double((long long)of.max_error_of_others);
        reduce_warp<true>(fmax(widen(of.max_error[thread]), of_others), shared, N * SUMS + r);
    }
    for (int i = 0; i < 3; i++) add_count(&shared.own[i], own[i]);
    reduce_warp<true>(widen(x_amax), shared, VALUES - 1);
    __syncthreads();
    unsigned* counts = job.counts + (long long)(blockIdx.x / job.parts) * COLUMNS;
    for (int r = 0; r < N; r++)
        for (int i = thread; i < COUNTS; i += THREADS)
            if (unsigned n = shared.recipes[r].counts[i]) atomicAdd(&counts[r * COUNTS + i], n);
    if (thread < 3 && shared.own[thread]) atomicAdd(&counts[NONZERO + thread], shared.own[thread]);
    for (int i = thread; i < VALUES; i += THREADS) {
        double value = shared.values[0][i];
        for (int w = 1; w < THREADS / 32; w++)
            value = i < N * SUMS ? value + shared.values[w][i] : fmax(value, shared.values[w][i]);
        job.sums[(long long)blockIdx.x * VALUES + i] = value;
    }
}

__device__ void clear(Shared& shared) {
    unsigned* words = reinterpret_cast<unsigned*>(&shared);
    for (int i = threadIdx.x; i < sizeof(Shared) / 4; i += THREADS) words[i] = 0;
    __syncthreads();
}

// Scales of the thread's row.
__device__ void begin_row(const Analyze& job, float amax, Shared& shared) {
    for_each<FAMILY_COUNT>([&](auto index) {
        using Mine = Family<decltype(index)::VALUE>;
#pragma unroll 1
        for (int g = Mine::BEGIN; g < Mine::END; g++) {
            Row row = row_scales<Mine::PER_TOKEN, Mine::FAST>(job.scaling[g], amax);
            int i = threadIdx.x;
            shared.encode[g][i] = row.encode, shared.decode[g][i] = row.decode, shared.inverse[g][i] = row.inverse;
        }
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, ANALYZE_CTAS) analyze(const __grid_constant__ Analyze job) {
    Shared& shared = shared_memory_once();
    clear(shared);
    int own[3] = {};  // non-zero elements and blocks; rows, or blocks where no recipe reads a row's amax, with NaN or Inf
    float x_amax = 0;
    int segment = blockIdx.x / job.parts, lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
    int rows = THREADS >> job.log_lanes;
    if (job.next && blockIdx.x % job.parts == 0 && threadIdx.x == 0)
        job.indices[segment] = job.next[segment * job.next_stride];  // before `finish` moves it on
    long long end = job.offsets ? job.offsets[segment + 1] : job.tokens;
    long long first = (job.offsets ? job.offsets[segment] : 0) + (long long)(blockIdx.x % job.parts) * rows;
    for (; first < end; first += (long long)job.parts * rows) {
        long long token = first + (threadIdx.x >> job.log_lanes);
        const Input* x = job.x + token * job.stride;
        int blocks = token < end ? job.blocks : 0;
        float amax = ANY_PER_TOKEN ? row_amax(x, blocks, lane, job.log_lanes) : 0;
        bool finite = bits(amax) < INFINITY_BITS;
        own[2] += !finite && lane == 0;
        begin_row(job, amax, shared);
        double x_sq = count_row(job, x, amax, finite ? blocks : 0, lane, shared, own, x_amax);
        store_row(job, token < end ? token : job.tokens, lane, x_sq, shared);
    }
    __syncthreads();
    store(job, own, x_amax, shared);
}
