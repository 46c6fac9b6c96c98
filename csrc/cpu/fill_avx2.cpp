// The loops of fills and digests for AVX2, FMA and F16C.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/isa.h"
#include "cpu/target_region.h"

#if defined(__GNUC__) && !defined(__clang__)
// Four chains side by side want more than 16 registers: GCC lays them out better before it gives out
// registers. A digest's weights, which come again from turn to turn, would take them all.
#pragma GCC optimize("schedule-insns", "sched-pressure", "no-predictive-commoning")
#endif

#define CONVINIT_LANES avx2
CONVINIT_TARGET_BEGIN("avx2,fma,f16c")
#include "cpu/lanes_avx2.inl"

#include "cpu/fill_loop.inl"
CONVINIT_TARGET_END

namespace convinit {

const FunctionTable kAvx2Table = avx2::make_table("avx2");

}  // namespace convinit
#endif
