// Stores for the scalar lanes: a group is one block.
#pragma once

#include "core/dtype.h"

namespace convinit {
namespace scalar {

template <class Out, class Convert>
CONVINIT_HD void store_block(Out* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32],
                             Convert convert) {
  for (int i = 0; i < kVectors32; ++i) {
    to[2 * i] = convert(even[i]);
    to[2 * i + 1] = convert(odd[i]);
  }
}
CONVINIT_HD void store(float* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  store_block(to, even, odd, [](float x) { return x; });
}
CONVINIT_HD void store(Half* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  store_block(to, even, odd, to_half);
}
CONVINIT_HD void store(BFloat16* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  store_block(to, even, odd, to_bfloat16);
}
CONVINIT_HD void store(Float8E4M3* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  store_block(to, even, odd, to_float8_e4m3);
}
CONVINIT_HD void store(Float8E5M2* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  store_block(to, even, odd, to_float8_e5m2);
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  to[0] = even;
  to[1] = odd;
}

}  // namespace scalar
}  // namespace convinit
