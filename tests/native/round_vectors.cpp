// What tests/test_dtype.py loads: the vector lanes' rounding to each small type, for floats that it chooses,
// in whole groups. Compiled for an instruction set, with CONVINIT_LANES its name and LANES_FILE its lanes.
#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include LANES_FILE

using namespace convinit;                  // NOLINT: this is a test of that namespace
using namespace convinit::CONVINIT_LANES;  // NOLINT: and of that one

// Elements 0 and 2 of a block lie in the even values' lanes, 1 and 3 in the odd ones'.
template <class Out>
static void round_all(const float* values, int64_t count, Out* bits) {
  constexpr int kGroup = 4 * kBlocks;
  const U64 lanes = join(counters(0), word(0));
  uint64_t blocks[kBlocks];
  memcpy(blocks, &lanes, sizeof blocks);
  for (int64_t i = 0; i < count; i += kGroup) {
    float halves[2][2 * kBlocks];
    for (int lane = 0; lane < 2 * kBlocks; ++lane) {
      const float* first = values + i + 4 * blocks[lane / 2] + 2 * (lane % 2);
      halves[0][lane] = first[0];
      halves[1][lane] = first[1];
    }
    F32 even, odd;
    memcpy(&even, halves[0], sizeof even);
    memcpy(&odd, halves[1], sizeof odd);
    store(bits + i, even, odd);
  }
}

extern "C" {
void round_float16(const float* values, int64_t count, Half* bits) { round_all(values, count, bits); }
void round_bfloat16(const float* values, int64_t count, BFloat16* bits) { round_all(values, count, bits); }
void round_float8_e4m3fn(const float* values, int64_t count, Float8E4M3* bits) {
  round_all(values, count, bits);
}
void round_float8_e5m2(const float* values, int64_t count, Float8E5M2* bits) {
  round_all(values, count, bits);
}
}
