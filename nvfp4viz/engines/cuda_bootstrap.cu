// The Poisson bootstrap over tokens; its draws are stats.poisson_weights, bit for bit.

__constant__ unsigned THRESHOLDS[] = {POISSON_THRESHOLDS};  // a draw at or above the k-th weighs more than k
constexpr int DRAWS = sizeof(THRESHOLDS) / sizeof(unsigned);

__device__ unsigned hash32(unsigned x) {  // lowbias32
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// partial[CTA, replicate, column] = sum of weight(token, replicate) * values[column, token] over the CTA's share of tokens;
// the last replicate weighs every token 1. One thread a replicate, at most COLUMNS columns.
extern "C" __global__ void bootstrap(const double* values, double* partial, long long tokens, unsigned first_token, int columns) {
    double total[COLUMNS] = {};
    unsigned replicate = threadIdx.x, own = hash32(replicate + 0x9e3779b9u);
    long long share = (tokens + gridDim.x - 1) / gridDim.x, start = blockIdx.x * share;
    for (long long token = start; token < min(start + share, tokens); token++) {
        unsigned draw = hash32(hash32(first_token + (unsigned)token) ^ own);
        int weight = 0;
        while (weight < DRAWS && draw >= THRESHOLDS[weight]) weight++;
        if (replicate == REPLICATES) weight = 1;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (c < columns) total[c] += weight * values[c * tokens + token];
    }
    if (replicate > REPLICATES) return;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c < columns) partial[(blockIdx.x * (REPLICATES + 1ll) + replicate) * columns + c] = total[c];
}
