// The loops of fills and digests for SSE2.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>

#include "cpu/isa.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns", "sched-pressure", "no-predictive-commoning")  // as in fill_avx2.cpp
#endif

#define CONVINIT_LANES sse2
#define CONVINIT_WITHOUT_MATCH
#define CONVINIT_HD_CALLED static __attribute__((noinline, unused))
#include "cpu/lanes_sse2.inl"

#include "cpu/fill_loop.inl"

namespace convinit {

const FunctionTable kSse2Table = sse2::make_table("sse2");

}  // namespace convinit
#endif
