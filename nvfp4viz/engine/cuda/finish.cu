// `finish` adds what `analyze` left behind to the statistics of a stream, in a fixed order: the same bits in every run.

enum { SLOTS = ROWS * RUNS, COLUMN = SLOTS + 2 };  // of one column by token: sums by run, then err_sq and x_sq
enum { LEVELS = ROWS - 1, CHUNK = 1 << LOG_CHUNK, SMALLEST = CHUNK >> SHORTEST };  // tokens, and shortest runs, of a chunk
constexpr int FINISH_THREADS = 256, STATE = COLUMNS + VALUES + (N + 1) * COLUMN + 2;  // numbers of a segment
static_assert(SLOTS <= FINISH_THREADS && LOG_CHUNK - SHORTEST < LEVELS, "a thread has a slot, a chunk is a run of its own");

struct Finish {                   // mirrored by plan.py
    unsigned* counts;             // as in Analyze, set to 0
    const double *sums, *err_sq, *x_sq;
    const int* offsets;
    double *state, *partial;      // [segments, STATE]; [segments, N + 1, parts, COLUMN]
    double* indices;              // [segments]: index of each segment's first token, where `first` < 0
    unsigned* tickets;            // [segments, N + 1], 0
    long long tokens, first, at, length;  // first: index of the first token, or < 0
    int segments, sum_parts, parts;       // parts: CTAs a column of a segment; sum_parts: CTAs a segment in `analyze`
};
static_assert(sizeof(Finish) == FINISH_BYTES, "plan.py mirrors it");

struct Span {  // tokens of a segment, and their indices in its stream
    long long begin, end, first;
};

struct Chunk {
    double run[2 * SMALLEST];        // sums of the shortest runs, then of twice as long ones, ...
    double value[CHUNK];             // of each token, 0 where it is not there
    unsigned char sequence[CHUNK];   // its slot, RUNS where none is known
    double reduced[FINISH_THREADS], places[FINISH_THREADS];
};

__device__ double add_all(double value, double* shared) {  // over the CTA, on every thread
    shared[threadIdx.x] = value;
    for (int half = FINISH_THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    value = shared[0];
    __syncthreads();
    return value;
}

__device__ double rounded(double x_sq) {  // as stats.top_of does
    return __longlong_as_double((__double_as_longlong(x_sq) + (1ll << (SPARE_BITS - 1))) >> SPARE_BITS << SPARE_BITS);
}

struct Top {  // a token's rounded x_sq and 1 + its index in the stream; 0, 0 is none
    double x_sq, place;
};

__device__ Top larger_of(Top a, Top b) {  // of equal ones the first
    bool other = b.x_sq > a.x_sq || (b.x_sq == a.x_sq && b.place && (b.place < a.place || !a.place));
    return other ? b : a;
}

__device__ Top top_of_all(Top mine, Chunk& chunk) {
    chunk.reduced[threadIdx.x] = mine.x_sq, chunk.places[threadIdx.x] = mine.place;
    for (int half = FINISH_THREADS / 2; half; half /= 2) {
        __syncthreads();
        int i = threadIdx.x, other = i + half;
        if (i >= half) continue;
        Top top = larger_of({chunk.reduced[i], chunk.places[i]}, {chunk.reduced[other], chunk.places[other]});
        chunk.reduced[i] = top.x_sq, chunk.places[i] = top.place;
    }
    __syncthreads();
    return {chunk.reduced[0], chunk.places[0]};
}

// Values of the chunk's tokens, of err_sq / x_sq or, where `column` is N, of 1; index is that of its first token.
__device__ void read_chunk(const Finish& f, int column, const Span& span, long long index, Chunk& chunk, double& err, double& x,
                           Top& top) {
    for (int i = threadIdx.x; i < CHUNK; i += FINISH_THREADS) {
        long long t = span.begin + index + i - span.first;
        bool there = t >= span.begin && t < span.end;
        double x_sq = there ? f.x_sq[t] : 0, err_sq = there && column < N ? f.err_sq[column * f.tokens + t] : 0;
        err += err_sq, x += x_sq;
        chunk.value[i] = !(x_sq > 0) ? 0 : column < N ? err_sq / x_sq : 1;
        chunk.sequence[i] = f.length && x_sq > 0 ? (f.at + t - span.begin) / f.length & (RUNS - 1) : RUNS;
        if (column == N) top = larger_of(top, {rounded(x_sq), x_sq > 0 ? double(index + i + 1) : 0});
    }
    __syncthreads();
}

// Sums by sequence, a slot on each of the first threads.
__device__ double slot_of_sequence(Chunk& chunk) {
    int slot = threadIdx.x % RUNS, part = threadIdx.x / RUNS;
    double sum = 0;
    for (int i = part; i < CHUNK; i += FINISH_THREADS / RUNS) sum += chunk.sequence[i] == slot ? chunk.value[i] : 0;
    chunk.reduced[threadIdx.x] = sum;
    __syncthreads();
    for (int i = 1; part == 0 && i < FINISH_THREADS / RUNS; i++) sum += chunk.reduced[i * RUNS + slot];
    __syncthreads();
    if (part == 0) chunk.reduced[slot] = sum;
    __syncthreads();
    return chunk.reduced[slot];
}

// What the chunk adds to this thread's slot.
__device__ double slot_of_chunk(long long index, bool sequences, Chunk& chunk) {
    for (int i = threadIdx.x; i < SMALLEST; i += FINISH_THREADS) {
        double sum = 0;
        for (int j = 0; j < 1 << SHORTEST; j++) sum += chunk.value[(i << SHORTEST) + j];
        chunk.run[SMALLEST + i] = sum;  // a heap: run i is that of the shorter runs 2i and 2i + 1
    }
    for (int n = SMALLEST / 2; n; n /= 2) {
        __syncthreads();
        for (int i = n + threadIdx.x; i < 2 * n; i += FINISH_THREADS) chunk.run[i] = chunk.run[2 * i] + chunk.run[2 * i + 1];
    }
    __syncthreads();
    int row = threadIdx.x / RUNS, slot = threadIdx.x % RUNS, runs = max(SMALLEST >> row, 1);  // 1 if a run is longer
    double sum = 0, by_sequence = sequences ? slot_of_sequence(chunk) : 0;
    long long run = index >> (SHORTEST + row);
    for (int i = (slot - run) & (RUNS - 1); i < runs; i += RUNS) sum += chunk.run[runs + i];
    __syncthreads();
    return row < LEVELS ? sum : by_sequence;
}

struct Pair {
    double a, b;
};

// Adds to the state's column: slots, and err_sq and x_sq or the top token. Parts are added in their order, by the CTA that
// comes last.
__device__ void add_column(const Finish& f, int segment, int column, int part, double slot, Pair extra, double* to) {
    __shared__ bool last;
    int i = threadIdx.x, which = segment * (N + 1) + column;
    if (f.parts > 1) {
        double* parts = f.partial + (long long)which * f.parts * COLUMN;
        double* mine = parts + part * COLUMN;
        if (i < SLOTS) mine[i] = slot;
        if (i == SLOTS) mine[SLOTS] = extra.a, mine[SLOTS + 1] = extra.b;
        __threadfence();
        __syncthreads();
        if (i == 0) last = atomicAdd(&f.tickets[which], 1u) == f.parts - 1;
        __syncthreads();
        if (!last) return;
        __threadfence();
        if (i == 0) f.tickets[which] = 0;
        slot = 0, extra = {0, 0};
        for (int p = 0; p < f.parts; p++) {
            mine = parts + p * COLUMN;
            if (i < SLOTS) slot += __ldcg(&mine[i]);
            Pair its = {__ldcg(&mine[SLOTS]), __ldcg(&mine[SLOTS + 1])};
            Top top = larger_of({extra.a, extra.b}, {its.a, its.b});
            extra = column == N ? Pair{top.x_sq, top.place} : Pair{extra.a + its.a, extra.b + its.b};
        }
    }
    if (i < SLOTS) to[i] += slot;
    if (i != SLOTS) return;
    Top top = larger_of({to[SLOTS], to[SLOTS + 1]}, {extra.a, extra.b});
    to[SLOTS] = column == N ? top.x_sq : to[SLOTS] + extra.a;
    to[SLOTS + 1] = column == N ? top.place : to[SLOTS + 1] + extra.b;
}

// One column of one segment: a recipe's tokens, or under no recipe (column N) how many there are and the largest.
__device__ void finish_tokens(const Finish& f, int segment, int column, int part, Chunk& chunk) {
    double* state = f.state + (long long)segment * STATE + COLUMNS + VALUES;
    double* rows = state + (N + 1) * COLUMN;  // rows seen; index of the next one
    Span span = {f.offsets ? f.offsets[segment] : 0, f.offsets ? f.offsets[segment + 1] : f.tokens, f.first};
    if (f.first < 0) span.first = (long long)f.indices[segment];
    long long end = span.first + span.end - span.begin;
    double slot = 0, err = 0, x = 0;
    Top top = {};
    for (long long c = (span.first >> LOG_CHUNK) + part; c << LOG_CHUNK < end; c += f.parts) {
        read_chunk(f, column, span, c << LOG_CHUNK, chunk, err, x, top);
        slot += slot_of_chunk(c << LOG_CHUNK, f.length > 0, chunk);
    }
    if (column == N)
        top = top_of_all(top, chunk);
    else
        err = add_all(err, chunk.reduced), x = add_all(x, chunk.reduced);
    add_column(f, segment, column, part, slot, column == N ? Pair{top.x_sq, top.place} : Pair{err, x}, state + column * COLUMN);
    if (column == N && part == 0 && threadIdx.x == 0) rows[0] += span.end - span.begin, rows[1] = end;
}

__device__ void finish_counts(const Finish& f, long long i) {
    if (i >= (long long)f.segments * COLUMNS || !f.counts[i]) return;
    f.state[i / COLUMNS * STATE + i % COLUMNS] += f.counts[i];
    f.counts[i] = 0;
}

__device__ void finish_values(const Finish& f, long long which) {  // a warp each
    if (which >= (long long)f.segments * VALUES) return;
    long long segment = which / VALUES;
    int place = which % VALUES;
    bool maximum = place >= N * SUMS;
    double total = 0;
    for (int p = threadIdx.x % 32; p < f.sum_parts; p += 32) {
        double value = f.sums[(segment * f.sum_parts + p) * VALUES + place];
        total = maximum ? fmax(total, value) : total + value;
    }
    for (int i = 16; i; i /= 2) {
        double other = __shfl_xor_sync(~0u, total, i);
        total = maximum ? fmax(total, other) : total + other;
    }
    double* to = f.state + segment * STATE + COLUMNS + place;
    if (threadIdx.x % 32 == 0) *to = maximum ? fmax(*to, total) : *to + total;
}

extern "C" __global__ void __launch_bounds__(FINISH_THREADS) finish(const __grid_constant__ Finish f) {
    __shared__ Chunk chunk;
    int columns = f.segments * (N + 1) * f.parts, block = blockIdx.x;
    int counts = (f.segments * COLUMNS + FINISH_THREADS - 1) / FINISH_THREADS;
    if (block < columns)
        return finish_tokens(f, block / f.parts / (N + 1), block / f.parts % (N + 1), block % f.parts, chunk);
    block -= columns;
    if (block < counts) return finish_counts(f, (long long)block * FINISH_THREADS + threadIdx.x);
    finish_values(f, ((long long)(block - counts) * FINISH_THREADS + threadIdx.x) / 32);
}
