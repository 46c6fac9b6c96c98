// What tests/test_dtype.py loads: the core's rounding to each small type, for floats that it chooses.
#include <cstdint>

#include "core/dtype.h"

using namespace convinit;  // NOLINT: this is a test of that namespace

template <class Out, class Bits>
static void round_all(const float* values, int64_t count, Bits* bits) {
  for (int64_t i = 0; i < count; ++i) {
    Out out;
    scalar::convert(values[i], &out);
    bits[i] = out.bits;
  }
}

extern "C" {
void round_float16(const float* values, int64_t count, uint16_t* bits) {
  round_all<Half>(values, count, bits);
}
void round_bfloat16(const float* values, int64_t count, uint16_t* bits) {
  round_all<BFloat16>(values, count, bits);
}
void round_float8_e4m3fn(const float* values, int64_t count, uint8_t* bits) {
  round_all<Float8E4M3>(values, count, bits);
}
void round_float8_e5m2(const float* values, int64_t count, uint8_t* bits) {
  round_all<Float8E5M2>(values, count, bits);
}
}
