// The loops of fills and digests for Arm's Advanced SIMD, which every 64-bit Arm processor has.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__aarch64__)
#include <arm_neon.h>

#include "cpu/isa.h"

#define CONVINIT_LANES neon
#include "cpu/lanes_neon.inl"

#include "cpu/fill_loop.inl"

namespace convinit {

const FunctionTable kNeonTable = neon::make_table("neon");

}  // namespace convinit
#endif
