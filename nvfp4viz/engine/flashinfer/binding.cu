// Kernels around FlashInfer's device function cvt_warp_fp16_to_fp4, a block of 16 elements a thread, for one input
// type and one arithmetic: compiled with -DELEMENT=__nv_bfloat16 or half and -DSTRICT=true or false.
// flashinfer_portable.py puts a copy of the header below, adapted to this GPU, first on the include path.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <cfloat>
#include <cstdint>

// What the adapted header calls in place of instructions that only Blackwell has.
namespace nvfp4viz {

__device__ __forceinline__ uint64_t e2m1_byte(float even, float odd) {
  return __nv_cvt_float2_to_fp4x2(make_float2(even, odd), __NV_E2M1, cudaRoundNearest);
}

template <int N>
__device__ __forceinline__ uint64_t encode_e2m1(float2 const (&pairs)[N]) {
  uint64_t codes = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) codes |= e2m1_byte(pairs[i].x, pairs[i].y) << (8 * i);
  return codes;
}

template <int N>
__device__ __forceinline__ uint64_t encode_e2m1(float const (&values)[N]) {
  uint64_t codes = 0;
#pragma unroll
  for (int i = 0; i < N; i += 2) codes |= e2m1_byte(values[i], values[i + 1]) << (4 * i);
  return codes;
}

// Two E2M1 codes times an E4M3 scale; the product is exact in fp16.
__device__ __forceinline__ float2 decode_scaled(uint32_t codes, uint8_t scale) {
  __half2 const elements(__nv_cvt_fp4x2_to_halfraw2(codes & 0xFF, __NV_E2M1));
  __half const factor(__nv_cvt_fp8_to_halfraw(scale, __NV_E4M3));
  return __half22float2(__hmul2_rn(elements, __half2half2(factor)));
}

}  // namespace nvfp4viz

#include "tensorrt_llm/kernels/quantization_utils.cuh"

namespace tk = tensorrt_llm::kernels;
using ErrMode = tensorrt_llm::common::NVFP44Over6ErrMode;

// Encode and decode scale of each token, as nvfp4QuantAndPerTokenScaleKernel (a kernel, so not callable) derives them.
extern "C" __global__ void token_scales(float const* amaxes, float caller_scale, bool four_over_six, int m,
                                        float* encodes, float* decodes) {
  int const row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= m) return;
  float const amax = amaxes[row];
  float encode, decode;
  if constexpr (STRICT) {
    if (amax == 0.0f) {
      encode = four_over_six ? 0.0f : FLT_MAX;
    } else {
      encode = fminf(__fdiv_rn(__fdiv_rn(1.0f, caller_scale), amax), FLT_MAX);
      if (encode == 0.0f) encode = 1.0f;
    }
    decode = encode == 0.0f ? 0.0f : __fdiv_rn(1.0f, encode);
  } else {
    decode = amax * caller_scale;
    encode = decode == 0.0f ? 0.0f : tk::reciprocal_approximate_ftz(decode);
  }
  encodes[row] = encode;
  decodes[row] = decode;
}

// amaxes: per token; a null pointer per tensor, where encodes holds one scale.
template <typename Config>
__device__ __forceinline__ void quantize(ELEMENT const* x, float const* encodes, float const* amaxes,
                                         int64_t blocks, int blocks_a_row, uint64_t* codes, uint8_t* scales) {
  int64_t const block = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block >= blocks) return;
  int64_t const row = amaxes ? block / blocks_a_row : 0;
  auto elements = reinterpret_cast<tk::PackedVec<ELEMENT, 16> const*>(x)[block];
  codes[block] = tk::cvt_warp_fp16_to_fp4<ELEMENT, 16, 16, /*UE8M0_SF=*/false, STRICT, Config>(
      elements, encodes[row], scales + block, amaxes ? amaxes[row] : 0.0f);
}

#define KERNEL(NAME, ...)                                                                                       \
  extern "C" __global__ void NAME(ELEMENT const* x, float const* encodes, float const* amaxes, int64_t blocks,  \
                                  int blocks_a_row, uint64_t* codes, uint8_t* scales) {                         \
    quantize<__VA_ARGS__>(x, encodes, amaxes, blocks, blocks_a_row, codes, scales);                             \
  }
#define FOUR_OVER_SIX(CEILING, MODE)                                                                            \
  KERNEL(MODE##_##CEILING##_exact, tensorrt_llm::common::NVFP44Over6Config<CEILING, ErrMode::MODE, false>)      \
  KERNEL(MODE##_##CEILING##_fp16, tensorrt_llm::common::NVFP44Over6Config<CEILING, ErrMode::MODE, true>)

KERNEL(standard, std::false_type)
FOUR_OVER_SIX(448, MAE)
FOUR_OVER_SIX(448, MSE)
FOUR_OVER_SIX(256, MAE)
FOUR_OVER_SIX(256, MSE)
