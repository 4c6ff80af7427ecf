// `analyze` counts and sums what N recipes do to tokens, in one pass: a token's amax once, each candidate of recipes that
// share their scales once, all scores and statistics from them. Tokens of several segments are told apart.

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
    __syncwarp();
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
    __syncwarp();  // which also brings those that stored back to the others
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
