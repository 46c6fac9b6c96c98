// The loops of fills and digests for AVX-512 (F, DQ, BW, VL).
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/isa.h"
#include "cpu/target_region.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC then mixes the next group's words with this group's values, and does not hold one back for the other.
#pragma GCC optimize("schedule-insns", "sched-pressure", "no-predictive-commoning")
#endif

#define CONVINIT_LANES avx512
CONVINIT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,fma,f16c")
#include "cpu/lanes_avx512.inl"

#include "cpu/fill_loop.inl"
CONVINIT_TARGET_END

namespace convinit {

const FunctionTable kAvx512Table = avx512::make_table("avx512");

}  // namespace convinit
#endif
