// `analyze` counts and sums what N recipes do to tokens, in one pass: a token's amax once, each candidate of recipes that
// share their scales once, all scores and statistics from them. Tokens of several segments are told apart.

enum { SCALES = 0, PAIRS = 256, BLOCK_NMSE = 512, TOKEN_NMSE = 512 + BINS, HISTOGRAMS = 512 + 2 * BINS };  // their starts
enum { FOUR_SATURATED = HISTOGRAMS, FOUR_SATURATED_CHOSEN, SCALE_SATURATED, CLIPPED, FLUSHED, COUNTS };    // of a recipe
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
    float max_error[THREADS];    // of ordinary blocks
    unsigned lost[THREADS];      // as in Measured
    unsigned long long max_error_of_others;  // bits of float64
    unsigned counts[COUNTS + 1];
};

struct Shared {
    OfRecipe recipes[N];
    float encode[G][THREADS], decode[G][THREADS], inverse[G][THREADS];  // of each thread's row
    double values[THREADS / 32][VALUES];
    unsigned own[3];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "plan.py asks for as much");

__device__ int nmse_bin(double nmse) {
    return min(max((__double2hiint(nmse) >> (MANTISSA_SHIFT - 32)) - FIRST_BIN, 0), BINS - 1);
}

// The bin of err_sq / x_sq, which is divided only where the product with the reciprocal is near a bin's edge.
__device__ int nmse_bin(double err_sq, double x_sq, double reciprocal) {
    double nmse = err_sq * reciprocal;
    constexpr unsigned BELOW = (1u << (MANTISSA_SHIFT - 32)) - 1;
    if (__builtin_expect((unsigned(__double2hiint(nmse)) + 1 & BELOW) <= 1, 0)) nmse = err_sq / x_sq;
    return nmse_bin(nmse);
}

__device__ __noinline__ void add_lost(OfRecipe& to) {
    unsigned& lost = to.lost[threadIdx.x];
    atomicAdd(&to.counts[CLIPPED], lost & 0xffff);
    atomicAdd(&to.counts[FLUSHED], lost >> 16);
    lost = 0;
}

// Adds to a recipe what the candidate that it took did to a block.
__device__ __forceinline__ void count_block(OfRecipe& to, const Block& b, float h, unsigned byte, const Measured& m,
                                            double max_error, bool four, double reciprocal) {
    int i = threadIdx.x;
    to.err_sq[i] += m.err_sq;
    to.sums[ERR_ABS][i] += m.err_abs;
    to.sums[X_HAT_SQ][i] += m.x_hat_sq;
    to.sums[X_DOT_X_HAT][i] += m.x_dot_x_hat;
    to.max_error[i] = larger(to.max_error[i], m.max_error);
    to.lost[i] += m.lost;
    if (__builtin_expect(to.lost[i] & 0x80008000u, 0)) add_lost(to);
    if (__builtin_expect(max_error > 0, 0))
        atomicMax(&to.max_error_of_others, (unsigned long long)__double_as_longlong(max_error));
    if (b.nonzero && h > SCALE_LIMIT) atomicAdd(&to.counts[SCALE_SATURATED], 1u);
    for (int shift = 0; shift < 32; shift += 8) {
        atomicAdd(&to.counts[PAIRS + (m.codes.x >> shift & 0xff)], 1u);
        atomicAdd(&to.counts[PAIRS + (m.codes.y >> shift & 0xff)], 1u);
    }
    atomicAdd(&to.counts[SCALES + 2 * (byte & 127) + four], 1u);
    if (b.x_sq > 0) atomicAdd(&to.counts[BLOCK_NMSE + nmse_bin(m.err_sq, b.x_sq, reciprocal)], 1u);
}

// A recipe without 4over6, whose scale is another one than that for 6 of the recipes with it.
template <bool FAST>
__device__ __noinline__ void count_apart(OfRecipe& to, const Input* at, float h, Row row) {
    Raw raw = load(at);
    Block b = read_block(raw, at, amax(raw));
    double max_error = 0;
    Candidate plain = candidate<FAST>(h, b.bmax, row);
    Measured m = measure_any(b, plain, row.decode, max_error);
    count_block(to, b, h, plain.byte, m, max_error, false, 1 / b.x_sq);
}

// One block under the recipes of group g.
template <class Mine>
__device__ __forceinline__ void count_group(const Analyze& job, int g, const Block& b, const Row& row, double reciprocal,
                                            Shared& shared) {
    constexpr bool FAST = Mine::FAST, PLAIN = Mine::TYPES_SEEN & 1;
    bool zero = b.bmax == 0;
    double max6 = 0, max4 = 0;  // errors, of blocks that are not ordinary
    Candidate six = candidate<FAST>(scale_to_six<Mine::OVER, FAST>(b.bmax, row), b.bmax, row), four = six;
    Measured m6 = measure(b, six, row.decode, max6), m4 = m6;
    if (Mine::OVER && !zero) {
        four = candidate<FAST>(six.h * 1.5f, b.bmax, row);
        m4 = measure(b, four, row.decode, max4);
    }
    unsigned takes_four = 0;  // a bit a recipe
    for_each<TYPES>([&](auto index) {
        constexpr int T = decltype(index)::VALUE;
        if constexpr (T > 0 && (Mine::TYPES_SEEN >> T & 1)) {
            int r = job.recipes[g][T];
            if (r < 0 || zero) return;
            takes_four |= prefers_four<Type<T>, Mine::PER_TOKEN>(b, six, four, m6, m4, row, job.scoring[r]) << r;
        }
    });
    int plain = PLAIN ? job.recipes[g][0] : -1;
    float plain_h = Mine::OVER && PLAIN ? scale_to_six<false, FAST>(b.bmax, row) : six.h;
#pragma unroll 1
    for (int r = job.first[g]; r < job.first[g + 1]; r++) {
        OfRecipe& to = shared.recipes[r];
        bool is_plain = PLAIN && r == plain, is_four = takes_four >> r & 1;
        if (Mine::OVER && is_plain && e4m3(plain_h).code != six.byte) {
            count_apart<FAST>(to, b.at, plain_h, row);
            continue;
        }
        if (Mine::OVER && !is_plain && b.nonzero && four.h > SCALE_LIMIT) {
            atomicAdd(&to.counts[FOUR_SATURATED], 1u);
            if (is_four) atomicAdd(&to.counts[FOUR_SATURATED_CHOSEN], 1u);
        }
        Measured m = is_four ? m4 : m6;
        if (Mine::OVER && zero && !is_plain) m.codes = {0, 0};  // whatever the signs
        count_block(to, b, is_plain ? plain_h : is_four ? four.h : six.h, is_four ? four.byte : six.byte, m,
                    is_four ? max4 : max6, is_four, reciprocal);
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
        double reciprocal = 1 / b.x_sq;
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

__device__ double add_across(double value, int log_lanes) {
    return across(value, log_lanes, [](double a, double b) { return a + b; });
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
        add_count(&of.counts[CLIPPED], of.lost[thread] & 0xffff);
        add_count(&of.counts[FLUSHED], of.lost[thread] >> 16);
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

// Scales of the thread's row, and its sums set to 0.
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
    for (int r = 0; r < N; r++) shared.recipes[r].err_sq[threadIdx.x] = 0;
}

extern "C" __global__ void __launch_bounds__(THREADS, ANALYZE_CTAS) analyze(const __grid_constant__ Analyze job) {
    extern __shared__ __align__(16) unsigned char memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
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
        bool finite = bits(amax) < INFINITY_BITS, counts = lane == 0 && token < end;
        own[2] += !finite && lane == 0;
        begin_row(job, amax, shared);
        double x_sq = count_row(job, x, amax, finite ? blocks : 0, lane, shared, own, x_amax);
        x_sq = add_across(x_sq, job.log_lanes);
        if (counts) job.x_sq[token] = x_sq;
#pragma unroll 1
        for (int r = 0; r < N; r++) {
            double err_sq = add_across(shared.recipes[r].err_sq[threadIdx.x], job.log_lanes);
            if (!counts) continue;
            job.err_sq[r * job.tokens + token] = err_sq;
            if (x_sq > 0) atomicAdd(&shared.recipes[r].counts[TOKEN_NMSE + nmse_bin(err_sq / x_sq)], 1u);
        }
    }
    __syncthreads();
    store(job, own, x_amax, shared);
}
