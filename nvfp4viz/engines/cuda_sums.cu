// Sums over tokens and CTAs, each in a fixed order: the same bits in every run.

__device__ constexpr unsigned THRESHOLDS[] = {POISSON_THRESHOLDS};  // a draw at or above the k-th weighs more than k
constexpr int DRAWS = sizeof(THRESHOLDS) / sizeof(unsigned);

__device__ unsigned hash32(unsigned x) {  // lowbias32
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// The Poisson bootstrap, with the draws of stats.poisson_weights. totals[CTA, column, replicate] = sum of
// weight(token, replicate) * values[column, token] over the CTA's share of tokens; the last replicate weighs each token 1.
// One thread a replicate, at most COLUMNS columns, whose weights are computed once.
extern "C" __global__ void bootstrap(
    const double* __restrict__ values, double* __restrict__ totals, long long tokens, unsigned first_token, int columns) {
    double total[COLUMNS] = {};
    unsigned replicate = threadIdx.x, own = hash32(replicate + 0x9e3779b9u);
    long long share = (tokens + gridDim.x - 1) / gridDim.x, start = blockIdx.x * share;
    for (long long token = start; token < min(start + share, tokens); token++) {
        unsigned draw = hash32(hash32(first_token + (unsigned)token) ^ own);
        int weight = 0;
#pragma unroll
        for (int k = 0; k < DRAWS; k++) weight += draw >= THRESHOLDS[k];
        if (replicate == REPLICATES) weight = 1;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (c < columns) total[c] += weight * values[c * tokens + token];
    }
    if (replicate > REPLICATES) return;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c < columns) totals[((long long)blockIdx.x * columns + c) * (REPLICATES + 1) + replicate] = total[c];
}

// out[batch, column] = sum of totals[batch, row, column] over the rows, but the largest in the last `maxima` columns.
// A CTA takes 32 columns, a warp of it every eighth row.
extern "C" __global__ void fold(
    const double* __restrict__ totals, double* __restrict__ out, int rows, int columns, int maxima) {
    __shared__ double warps[8][32];
    int groups = (columns + 31) / 32, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int batch = blockIdx.x / groups, column = blockIdx.x % groups * 32 + lane;
    bool largest = column >= columns - maxima;
    double total = 0;
    if (column >= columns) rows = 0;
#pragma unroll 8
    for (int row = warp; row < rows; row += 8) {
        double value = totals[((long long)batch * rows + row) * columns + column];
        total = largest ? fmax(total, value) : total + value;
    }
    warps[warp][lane] = total;
    __syncthreads();
    if (warp || column >= columns) return;
    for (int i = 1; i < 8; i++) total = largest ? fmax(total, warps[i][lane]) : total + warps[i][lane];
    out[(long long)batch * columns + column] = total;
}
