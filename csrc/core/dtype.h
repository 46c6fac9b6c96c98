// Half precision by hand: float32 rounded to nearest, ties to even, as 16 bits.
#pragma once

#include "core/lanes.h"

namespace convinit {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace CONVINIT_LANES {

// bfloat16 is the upper half of a float32: adding just under half a unit, or half where the kept part is odd,
// carries into it. A NaN keeps its upper half and stays one.
CONVINIT_HD BFloat16 to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>((x == x ? rounded : bits | 0x00400000u) >> 16)};
}

CONVINIT_HD Half to_half(float x) {
  constexpr uint32_t kInfinity = 0x7f800000u, kHalfOverflow = 0x477ff000u, kHalfNormal = 0x38800000u;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kInfinity) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= kHalfOverflow) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < kHalfNormal) {  // a multiple of 2^-24: adding 2^-1 in float32 rounds to that multiple
    float absolute;
    memcpy(&absolute, &magnitude, sizeof absolute);
    const float shifted = absolute + 0.5f;
    uint32_t low;
    memcpy(&low, &shifted, sizeof low);
    return {static_cast<uint16_t>(sign | (low & 0xffffu))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
