// Values to what is stored, several at a time, with the GPU's own conversions where it has them: they agree
// with core/dtype.h but for NaN's sign and for a float8's overflow, which saturates.
#pragma once

#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"
#include "cuda/task_list.h"

#if defined(__CUDA_ARCH__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#endif

namespace convinit {
namespace cuda {

// As many values as a word of 32 bits holds.
template <class Out>
CONVINIT_HD uint32_t packed_by_hand(const float* values) {
  uint32_t word;
  Out out[sizeof word / sizeof(Out)];
  CONVINIT_UNROLL
  for (size_t i = 0; i < sizeof word / sizeof(Out); ++i) scalar::convert(values[i], &out[i]);
  memcpy(&word, out, sizeof word);
  return word;
}
template <class Out>
CONVINIT_HD uint32_t packed(Out, const float* v) {
  return packed_by_hand<Out>(v);
}

#if defined(__CUDA_ARCH__)
template <class Pair>
CONVINIT_HD uint32_t word_of(Pair pair) {
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}
CONVINIT_HD uint32_t packed(Half, const float* v) { return word_of(__floats2half2_rn(v[0], v[1])); }
CONVINIT_HD uint32_t packed(BFloat16, const float* v) { return word_of(__floats2bfloat162_rn(v[0], v[1])); }
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
CONVINIT_HD uint32_t packed_float8(const float* v, __nv_fp8_interpretation_t format) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2({v[0], v[1]}, __NV_SATFINITE, format);
  const uint32_t high = __nv_cvt_float2_to_fp8x2({v[2], v[3]}, __NV_SATFINITE, format);
  return low | high << 16;
}
CONVINIT_HD uint32_t packed(Float8E4M3, const float* v) { return packed_float8(v, __NV_E4M3); }
CONVINIT_HD uint32_t packed(Float8E5M2, const float* v) { return packed_float8(v, __NV_E5M2); }
#else
CONVINIT_HD uint32_t packed(Float8E5M2, const float* v) {
  constexpr float kLargest = 57344;
  float saturated[4];
  CONVINIT_UNROLL
  for (int i = 0; i < 4; ++i) saturated[i] = ::fminf(::fmaxf(v[i], -kLargest), kLargest);
  return packed_by_hand<Float8E5M2>(saturated);
}
#endif

template <class Out>
CONVINIT_HD Vector vector_of(const float* values) {
  Vector vector;
  CONVINIT_UNROLL
  for (int word = 0; word < 4; ++word) vector.words[word] = packed(Out(), values + word * (4 / sizeof(Out)));
  return vector;
}
template <class Out>
CONVINIT_HD Vector vector_of(const double* values) {
  Vector vector;
  memcpy(vector.words, values, sizeof vector);
  return vector;
}

// `to` is a multiple of 16.
CONVINIT_HD void store(const Vector& vector, char* to) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<uint4*>(to) = {vector.words[0], vector.words[1], vector.words[2], vector.words[3]};
#else
  memcpy(to, vector.words, sizeof vector);
#endif
}

}  // namespace cuda
}  // namespace convinit
