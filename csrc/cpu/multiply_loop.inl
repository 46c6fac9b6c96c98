// Products of matrices for factorisations: MultiplyFunction of isa.h. Included by fill_loop.inl.
//
// Lanes lie along the columns and every sum is one chain of fma in the order of its terms: neither the width
// of a vector nor the size of a tile changes a bit.

#include "cpu/isa.h"

namespace convinit {
namespace CONVINIT_LANES {

#ifdef CONVINIT_SCALAR_LANES
using Doubles = double;
CONVINIT_HD Doubles doubles(double x) { return x; }
#else
using Doubles = vector::F64;
CONVINIT_HD Doubles doubles(double x) { return vector::splat(x); }
#endif

constexpr int kLanes = sizeof(Doubles) / sizeof(double);
// As many sums as fit the registers: 32 of them for AVX-512 and NEON, 16 for AVX2.
constexpr int kTileRows = kLanes == 8 ? 8 : 4;
constexpr int kTileVectors = kLanes == 8 || kLanes == 4 ? 3 : 6;
static_assert(kStripColumns % (kTileVectors * kLanes) == 0, "a strip is several tiles wide");

template <int kRows, int kVectors>
CONVINIT_HD void multiply_tile(const double* a, int64_t row_step, int64_t term_step, const double* b,
                               double* c, int64_t num_terms) {
  Doubles sums[kRows][kVectors];
  CONVINIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVINIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      memcpy(&sums[i][v], c + i * kStripColumns + v * kLanes, sizeof(Doubles));
  }
  do {
    Doubles factors[kVectors];
    CONVINIT_UNROLL
    for (int v = 0; v < kVectors; ++v) memcpy(&factors[v], b + v * kLanes, sizeof(Doubles));
    CONVINIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Doubles factor = doubles(a[i * row_step]);
      CONVINIT_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = fma(factor, factors[v], sums[i][v]);
    }
    a += term_step;
    b += kStripColumns;
  } while (--num_terms > 0);
  CONVINIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVINIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      memcpy(c + i * kStripColumns + v * kLanes, &sums[i][v], sizeof(Doubles));
  }
}

static void multiply(const double* a, int64_t row_step, int64_t term_step, const double* b, double* c,
                     int64_t num_rows, int64_t num_terms) {
  if (num_terms == 0) return;
  int64_t i = 0;
  for (; i + kTileRows <= num_rows; i += kTileRows) {
    for (int j = 0; j < kStripColumns; j += kTileVectors * kLanes)
      multiply_tile<kTileRows, kTileVectors>(a + i * row_step, row_step, term_step, b + j,
                                             c + i * kStripColumns + j, num_terms);
  }
  for (; i < num_rows; ++i)
    multiply_tile<1, kStripColumns / kLanes>(a + i * row_step, row_step, term_step, b, c + i * kStripColumns,
                                             num_terms);
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
