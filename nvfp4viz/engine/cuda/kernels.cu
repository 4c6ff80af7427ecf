// `quantize` stores codes and scales; `analyze` only counts and sums. Both read a row twice, the second time mostly from L1:
// its amax, then its blocks. What happens to a block is in cuda_block.cu, which this text follows.

extern "C" __global__ void __launch_bounds__(THREADS, QUANTIZE_CTAS) quantize(const __grid_constant__ Job job) {
    long long token = ((long long)blockIdx.x << (LOG_THREADS - job.log_lanes)) + (threadIdx.x >> job.log_lanes);
    int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1);
    const Input* x = job.x + token * job.stride;
    Row row = row_scales(job, token, x, lane);
    if (token >= job.tokens) return;
    for (int n = lane; n < job.blocks; n += lanes) {
        Raw raw = load(x + n * BLOCK);
        float bmax = amax(raw);
        if (bits(bmax) >= INFINITY_BITS && job.not_finite) *job.not_finite = 1;
        Choice c = choose(raw, x + n * BLOCK, bmax, row);
        unsigned quarters[4] = {};
        for (int i = 0; i < BLOCK; i++) quarters[i / 4] += e2m1(element(raw, i) * c.chosen.output).code << i % 4 * 4;
        long long block = token * job.blocks + n;
        reinterpret_cast<uint2*>(job.codes)[block] = c.dropped ? uint2{0, 0} : pack(quarters);
        job.scales[block] = c.chosen.byte;
    }
}

enum { SCALES = 0, PAIRS = 256, BLOCK_NMSE = 512, TOKEN_NMSE = 512 + BINS, HISTOGRAMS = 512 + 2 * BINS };  // their starts
struct Totals {
    unsigned nonzero, nonzero_blocks, four_saturated, four_saturated_chosen, scale_saturated, clipped, flushed, not_finite;
    double err_abs, x_hat_sq, x_dot_x_hat, max_error, x_amax;
};
constexpr int TOTALS = HISTOGRAMS + 13;

__device__ void count_nmse(unsigned* histogram, double err_sq, double x_sq) {
    int bin = (__double2hiint(err_sq / x_sq) >> (MANTISSA_SHIFT - 32)) - FIRST_BIN;
    if (x_sq > 0) atomicAdd(&histogram[min(max(bin, 0), BINS - 1)], 1u);
}

// Returns squared error and signal of the block; all else that it adds to the statistics goes to `t` and `histograms`.
__device__ double2 measure(const Raw& raw, float bmax, const Choice& c, float decode, Totals& t, unsigned* histograms) {
    bool there = bits(bmax) != 0;
    bool four = FOUR_OVER_SIX && c.chosen.byte == c.four.byte && c.chosen.byte != c.six.byte;
    t.nonzero_blocks += there;
    t.four_saturated += FOUR_OVER_SIX && there && c.four.h > 448 * MARGIN;
    t.four_saturated_chosen += four && there && c.four.h > 448 * MARGIN;
    t.scale_saturated += there && (four ? c.four.h : c.six.h) > 448 * MARGIN;
    float limit = c.chosen.byte ? 6 * MARGIN : __uint_as_float(INFINITY_BITS);
    double err_sq = 0, x_sq = 0;  // in column order and without fused operations, for the same bins as the reference
    unsigned quarters[4] = {};
    for (int i = 0; i < BLOCK; i++) {
        float x = element(raw, i), scaled = x * c.chosen.output, a = magnitude(x);
        Element q = e2m1(scaled);
        float a_hat = multiply_ieee(q.value * c.chosen.scale, decode);
        quarters[i / 4] += q.code << i % 4 * 4;
        t.nonzero += bits(a) != 0;
        t.flushed += bits(a) != 0 && bits(a_hat) == 0;
        t.clipped += fabsf(scaled) > limit;
        double value = widen(a), value_hat = widen(a_hat);
        if (scaled != scaled && bits(x) >> 31) value_hat = -value_hat;  // NaN became +6, whatever the sign of x
        double err = fabs(value_hat - value);
        err_sq += err * err;
        x_sq += value * value;
        t.x_hat_sq = __fma_rn(value_hat, value_hat, t.x_hat_sq);
        t.x_dot_x_hat = __fma_rn(value, value_hat, t.x_dot_x_hat);
        t.err_abs += err;
        t.max_error = err > t.max_error ? err : t.max_error;
    }
    t.x_amax = fmax(t.x_amax, widen(bmax));
    uint2 codes = c.dropped ? uint2{0, 0} : pack(quarters);
    for (int i = 0; i < 32; i += 8) {
        atomicAdd(&histograms[PAIRS + (codes.x >> i & 0xff)], 1u);
        atomicAdd(&histograms[PAIRS + (codes.y >> i & 0xff)], 1u);
    }
    atomicAdd(&histograms[SCALES + 2 * (c.chosen.byte & 127) + four], 1u);
    count_nmse(histograms + BLOCK_NMSE, err_sq, x_sq);
    return {err_sq, x_sq};
}

extern "C" __global__ void __launch_bounds__(THREADS, ANALYZE_CTAS) analyze(const __grid_constant__ Job job) {
    __shared__ unsigned histograms[HISTOGRAMS];
    for (int i = threadIdx.x; i < HISTOGRAMS; i += THREADS) histograms[i] = 0;
    __syncthreads();
    Totals t = {};
    int lanes = 1 << job.log_lanes, lane = threadIdx.x & (lanes - 1), rows = THREADS >> job.log_lanes;
    for (long long first = (long long)blockIdx.x * rows; first < job.tokens; first += (long long)gridDim.x * rows) {
        long long token = first + (threadIdx.x >> job.log_lanes);
        const Input* x = job.x + token * job.stride;
        Row row = row_scales(job, token, x, lane);
        double err_sq = 0, x_sq = 0;
        for (int n = lane; n < job.blocks && token < job.tokens; n += lanes) {
            Raw raw = load(x + n * BLOCK);
            float bmax = amax(raw);
            t.not_finite += bits(bmax) >= INFINITY_BITS;
            double2 sums = measure(raw, bmax, choose(raw, x + n * BLOCK, bmax, row), row.decode, t, histograms);
            err_sq += sums.x, x_sq += sums.y;
        }
        err_sq = add_across(err_sq, job.log_lanes), x_sq = add_across(x_sq, job.log_lanes);
        if (lane || token >= job.tokens) continue;
        job.err_sq[token] = err_sq, job.x_sq[token] = x_sq;
        count_nmse(histograms + TOKEN_NMSE, err_sq, x_sq);
    }
    double totals[] = {double(add_across(t.nonzero)),        double(add_across(t.nonzero_blocks)),
                       double(add_across(t.four_saturated)), double(add_across(t.four_saturated_chosen)),
                       double(add_across(t.scale_saturated)),
                       double(add_across(t.clipped)),        double(add_across(t.flushed)),
                       double(add_across(t.not_finite)),     add_across(t.err_abs),
                       add_across(t.x_hat_sq),               add_across(t.x_dot_x_hat),
                       max_across(t.max_error),              max_across(t.x_amax)};
    double* mine = job.totals + (long long)blockIdx.x * TOTALS;
    for (int i = threadIdx.x; i < HISTOGRAMS; i += THREADS) mine[i] = histograms[i];  // across() has synchronized
    if (threadIdx.x == 0)
        for (int i = HISTOGRAMS; i < TOTALS; i++) mine[i] = totals[i - HISTOGRAMS];
}
