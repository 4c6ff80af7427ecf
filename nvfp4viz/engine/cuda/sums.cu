// Sums over tokens and CTAs, each in a fixed order: the same bits in every run.

constexpr int FOLD_PARTS = SUM_THREADS / FOLD, PARTS = SUM_THREADS / RUNS;

__device__ double across(double value, double* shared) {  // the sum over a CTA, on its first thread
    shared[threadIdx.x] = value;
    for (int half = SUM_THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    return shared[0];
}

__device__ double rounded(double x_sq) {  // as stats.top_of does
    return __longlong_as_double((__double_as_longlong(x_sq) + (1ll << (SPARE_BITS - 1))) >> SPARE_BITS << SPARE_BITS);
}

// The largest x_sq and its token, the first of equal ones, to out[0] and out[1]; 0 and -1 where no token has a signal.
__device__ void largest_token(const double* x_sq, long long tokens, long long first_token, double* shared, double* out) {
    double top = 0;
    long long place = -1;
    for (long long t = threadIdx.x; t < tokens; t += SUM_THREADS)
        if (rounded(x_sq[t]) > top) top = rounded(x_sq[t]), place = t;
    double* places = shared + SUM_THREADS;
    shared[threadIdx.x] = top, places[threadIdx.x] = place;
    for (int half = SUM_THREADS / 2; half; half /= 2) {
        __syncthreads();
        int other = threadIdx.x + half;
        if (threadIdx.x >= half || places[other] < 0) continue;
        bool first = shared[other] == shared[threadIdx.x] && places[other] < places[threadIdx.x];
        if (shared[other] > shared[threadIdx.x] || first)
            shared[threadIdx.x] = shared[other], places[threadIdx.x] = places[other];
    }
    if (threadIdx.x == 0) out[0] = shared[0], out[1] = places[0] < 0 ? -1 : places[0] + first_token;
}

// stats.run_sums and what else is by token. values [2 * recipes, tokens]: err_sq and x_sq of each recipe. out [recipes + 1,
// ROWS * RUNS + 2]: the summed NMSE of each slot, then err_sq and x_sq of all tokens; last, under no recipe, the tokens of
// each slot, then the largest x_sq and its token. A CTA has one row of one of them; `length` is 0 where none is known.
extern "C" __global__ void runs(const double* __restrict__ values, double* __restrict__ out, long long tokens,
                                long long first_token, long long at, long long length, int recipes) {
    __shared__ double slots[RUNS][SUM_THREADS];
    int column = blockIdx.x / (ROWS + 1), row = blockIdx.x % (ROWS + 1), thread = threadIdx.x;
    bool count = column == recipes;
    const double *err_sq = values + (count ? 0 : 2 * column) * tokens, *x_sq = err_sq + tokens;
    double* mine = out + column * (ROWS * RUNS + 2) + row * RUNS;
    if (row == ROWS && count) return largest_token(x_sq, tokens, first_token, slots[0], mine);
    if (row == ROWS) {
        double err = 0, x = 0;
        for (long long t = thread; t < tokens; t += SUM_THREADS) err += err_sq[t], x += x_sq[t];
        err = across(err, slots[0]), x = across(x, slots[1]);
        if (thread == 0) mine[0] = err, mine[1] = x;
        return;
    }
    for (int i = 0; i < RUNS; i++) slots[i][thread] = 0;
    bool known = row < ROWS - 1 || length;
    for (long long t = thread; known && t < tokens; t += SUM_THREADS) {
        if (!(x_sq[t] > 0)) continue;
        long long run = row < ROWS - 1 ? (first_token + t) >> (SHORTEST + row) : (at + t) / length;
        slots[run & (RUNS - 1)][thread] += count ? 1 : err_sq[t] / x_sq[t];
    }
    __syncthreads();
    int slot = thread % RUNS, part = thread / RUNS;
    double total = 0;
    for (int i = 0; i < SUM_THREADS / PARTS; i++) total += slots[slot][part * (SUM_THREADS / PARTS) + i];
    __syncthreads();
    slots[slot][part] = total;
    __syncthreads();
    if (part) return;
    for (int i = 1; i < PARTS; i++) total += slots[slot][i];
    mine[slot] = total;
}

struct Fold {
    const double* totals;  // [batches, rows, columns]
    double* out;           // [batches, columns]
    int rows, columns, maxima;
};

// out[batch, column] = sum of totals[batch, row, column] over the rows, but the largest in the last `maxima` columns. A CTA
// takes FOLD columns, FOLD_PARTS threads each of them.
extern "C" __global__ void fold(Fold f) {
    __shared__ double parts[FOLD_PARTS][FOLD];
    int index = blockIdx.x, groups = (f.columns + FOLD - 1) / FOLD;
    int lane = threadIdx.x % FOLD, part = threadIdx.x / FOLD, batch = index / groups, column = index % groups * FOLD + lane;
    bool there = column < f.columns, largest = column >= f.columns - f.maxima;
    double total = 0;
#pragma unroll 8
    for (int row = part; row < (there ? f.rows : 0); row += FOLD_PARTS) {
        double value = f.totals[((long long)batch * f.rows + row) * f.columns + column];
        total = largest ? fmax(total, value) : total + value;
    }
    parts[part][lane] = total;
    __syncthreads();
    if (part || !there) return;
    for (int i = 1; i < FOLD_PARTS; i++) total = largest ? fmax(total, parts[i][lane]) : total + parts[i][lane];
    f.out[(long long)batch * f.columns + column] = total;
}
