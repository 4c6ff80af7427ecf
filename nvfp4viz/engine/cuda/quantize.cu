// `quantize` stores codes and scales of one recipe. It reads a row twice, the second time mostly from L1: its amax, then
// its blocks.

struct Quantize {                    // mirrored by plan.py
    const Input* x;                  // [tokens, blocks * 16], rows `stride` elements apart
    long long stride, tokens;
    int blocks, log_lanes;           // blocks of a row; 2^log_lanes threads share it
    int* not_finite;                 // set to 1 where x holds NaN or Inf, unless null
    unsigned char *codes, *scales;   // [tokens, blocks * 8], [tokens, blocks]
    Scaling scaling;
    Scoring scoring;
};
static_assert(sizeof(Quantize) == QUANTIZE_BYTES, "plan.py mirrors it");

extern "C" __global__ void __launch_bounds__(THREADS, QUANTIZE_CTAS) quantize(const __grid_constant__ Quantize job) {
    using Recipe = Type<FIRST_TYPE>;
    using Group = Family<0>;
    Part part = part_of_row(job);
    auto [token, x, lane, lanes, blocks] = part;
    Row row = read_row<Group>(job, part);
    if (token >= job.tokens) return;
    if (Group::PER_TOKEN && lane == 0) job.scaling.encode[token] = row.encode, job.scaling.decode[token] = row.decode;
    for (int n = lane; n < blocks; n += lanes) {
        const Input* at = x + n * BLOCK;
        Raw raw = load(at);
        float bmax = amax(raw);
        if (bits(bmax) >= INFINITY_BITS && job.not_finite) *job.not_finite = 1;
        bool dropped = Recipe::OVER && bmax == 0;  // then codes are 0 whatever the signs
        Candidate chosen = choose<Recipe, Group>(raw, at, bmax, row, job.scoring);
        unsigned quarters[4] = {};
        for (int i = 0; i < BLOCK; i++) quarters[i / 4] += e2m1(element(raw, i) * chosen.output).code << i % 4 * 4;
        long long block = token * job.blocks + n;
        reinterpret_cast<uint2*>(job.codes)[block] = dropped ? uint2{0, 0} : pack(quarters);
        job.scales[block] = chosen.byte;
    }
}
