// What tests/engine/test_formulas.py loads: fma and the formulas of core/math.h, of the lanes in LANES_FILE
// if that is defined, and else one value at a time. Counts are whole groups.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef LANES_FILE
#include LANES_FILE
#endif

#include "core/math.h"

using namespace convinit::CONVINIT_LANES;  // NOLINT: this is a test of that namespace

template <class Vector, class In>
static Vector group_of(const In* from) {
  Vector lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

template <class Vector, class In, class Out, class Function>
static void each(const In* from, int64_t count, Out* to, Function function) {
  for (int64_t i = 0; i < count; i += sizeof(Vector) / sizeof(In)) {
    const auto result = function(group_of<Vector>(from + i));
    memcpy(to + i, &result, sizeof result);
  }
}

template <class Vector, class Real>
static void fma_of_each(const Real* abc, int64_t count, Real* to) {
  for (int64_t i = 0; i < count; i += sizeof(Vector) / sizeof(Real)) {
    const auto result = convinit::CONVINIT_LANES::fma(
        group_of<Vector>(abc + i), group_of<Vector>(abc + count + i), group_of<Vector>(abc + 2 * count + i));
    memcpy(to + i, &result, sizeof result);
  }
}

extern "C" {
void fma_float32(const float* abc, int64_t count, float* to) { fma_of_each<F32>(abc, count, to); }
void fma_float64(const double* abc, int64_t count, double* to) { fma_of_each<F64>(abc, count, to); }

#define CONVINIT_EXPORT(name, vector, in, out, formula)            \
  void name(const in* from, int64_t count, out* to) {              \
    each<vector>(from, count, to, [](auto x) { return formula; }); \
  }
CONVINIT_EXPORT(neg2log_float32, F32, float, float, neg2log(x, splat(0.0f)))
CONVINIT_EXPORT(neg2log_float64, F64, double, double, neg2log(x, splat(0.0)))
CONVINIT_EXPORT(neglog4_float32, F32, float, float, neglog4(x))
CONVINIT_EXPORT(neglog4_float64, F64, double, double, neglog4(x))
CONVINIT_EXPORT(cosine_float32, U32, uint32_t, float, polar(splat(1.0f), x).x)
CONVINIT_EXPORT(cosine_float64, U64, uint64_t, double, polar(splat(1.0), x).x)
CONVINIT_EXPORT(sine_float32, U32, uint32_t, float, polar(splat(1.0f), x).y)
CONVINIT_EXPORT(sine_float64, U64, uint64_t, double, polar(splat(1.0), x).y)
CONVINIT_EXPORT(quantile_ratio_float32, F32, float, float, quantile_ratio(x))
CONVINIT_EXPORT(quantile_ratio_float64, F64, double, double, quantile_ratio(x))
}
