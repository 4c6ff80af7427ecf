// Sums over tokens and CTAs, each in a fixed order: the same bits in every run.

__device__ constexpr unsigned THRESHOLDS[] = {POISSON_THRESHOLDS};  // a draw at or above the k-th weighs more than k
constexpr int TILE = 32, FOLD_PARTS = SUM_THREADS / FOLD;
constexpr int DRAWS = sizeof(THRESHOLDS) / sizeof(unsigned);

__device__ unsigned hash32(unsigned x) {  // lowbias32
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// The Poisson bootstrap, with the draws of stats.poisson_weights. totals[CTA, column, replicate] = sum of
// weight(token, replicate) * values[column, token] over the CTA's share of tokens; the last replicate weighs each token 1.
// One thread a replicate; columns come in pairs, at most COLUMNS, and share their weights.
extern "C" __global__ void bootstrap(
    const double* __restrict__ values, double* __restrict__ totals, long long tokens, unsigned first_token, int columns) {
    __shared__ double tile[COLUMNS][TILE];  // some tokens' values, read by the CTA at once
    __shared__ unsigned hashes[TILE];
    double total[COLUMNS] = {};
    unsigned replicate = threadIdx.x, own = hash32(replicate + 0x9e3779b9u);
    long long share = (tokens + gridDim.x - 1) / gridDim.x, start = blockIdx.x * share, stop = min(start + share, tokens);
    for (; start < stop; start += TILE) {
        int n = min((long long)TILE, stop - start);
        __syncthreads();
        for (int i = threadIdx.x; i < columns * TILE; i += blockDim.x)
            if (i % TILE < n) tile[i / TILE][i % TILE] = values[i / TILE * tokens + start + i % TILE];
        if (threadIdx.x < TILE) hashes[threadIdx.x] = hash32(first_token + (unsigned)start + threadIdx.x);
        __syncthreads();
        for (int t = 0; t < n; t++) {
            unsigned draw = hash32(hashes[t] ^ own);
            int drawn = 0;
#pragma unroll
            for (int k = 0; k < DRAWS; k++) drawn += draw >= THRESHOLDS[k];
            double weight = replicate == REPLICATES ? 1 : drawn;
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 2) {
                if (c >= columns) break;
                total[c] += weight * tile[c][t];
                total[c + 1] += weight * tile[c + 1][t];
            }
        }
    }
    if (replicate > REPLICATES) return;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c < columns) totals[((long long)blockIdx.x * columns + c) * (REPLICATES + 1) + replicate] = total[c];
}

struct Fold {
    const double* totals;  // [batches, rows, columns]
    double* out;           // [batches, columns]
    int rows, columns, maxima;
};

// out[batch, column] = sum of totals[batch, row, column] over the rows, but the largest in the last `maxima` columns; of two
// jobs, the first of which has the first `ctas` CTAs. A CTA takes FOLD columns, FOLD_PARTS threads each of them.
extern "C" __global__ void fold(Fold a, Fold b, int ctas) {
    __shared__ double parts[FOLD_PARTS][FOLD];
    Fold f = blockIdx.x < ctas ? a : b;
    int index = blockIdx.x < ctas ? blockIdx.x : blockIdx.x - ctas, groups = (f.columns + FOLD - 1) / FOLD;
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
