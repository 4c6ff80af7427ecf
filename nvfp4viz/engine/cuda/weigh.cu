// `weigh` sums each token's squared errors under one recipe, times a weight an element.

struct Weigh {                       // mirrored by plan.py
    const Input* x;                  // [tokens, blocks * 16], rows `stride` elements apart
    const float* weights;            // [tokens, blocks * 16]
    double* sums;                    // [tokens]
    long long stride, tokens;
    int blocks, log_lanes;           // blocks of a row; 2^log_lanes threads share it
    Scaling scaling;
    Scoring scoring;
};
static_assert(sizeof(Weigh) == WEIGH_BYTES, "plan.py mirrors it");

extern "C" __global__ void __launch_bounds__(THREADS, QUANTIZE_CTAS) weigh(const __grid_constant__ Weigh job) {
    using Recipe = Type<FIRST_TYPE>;
    using Group = Family<0>;
    Part part = part_of_row(job);
    auto [token, x, lane, lanes, blocks] = part;
    Row row = read_row<Group>(job, part);
    const float4* weights = reinterpret_cast<const float4*>(job.weights) + token * job.blocks * (BLOCK / 4);
    double sum = 0;
    for (int n = lane; n < blocks; n += lanes) {
        const Input* at = x + n * BLOCK;
        Raw raw = load(at);
        Candidate chosen = choose<Recipe, Group>(raw, at, amax(raw), row, job.scoring);
        for (int i = 0; i < BLOCK; i += 4) {
            float4 w = __ldg(weights + (n * BLOCK + i) / 4);
            for (int j = 0; j < 4; j++) {
                float a = magnitude(element(raw, i + j)), value = e2m1_magnitude<true>(a * chosen.output).value;
                double err = widen(multiply_ieee(value * chosen.scale, row.decode)) - widen(a);
                sum += err * err * widen(j == 0 ? w.x : j == 1 ? w.y : j == 2 ? w.z : w.w);
            }
        }
    }
    sum = across(sum, job.log_lanes, [](double a, double b) { return a + b; });
    if (lane == 0 && token < job.tokens) job.sums[token] = sum;
}
