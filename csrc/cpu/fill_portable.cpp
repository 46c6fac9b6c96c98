// The loops of fills and digests for any machine: scalar lanes, no instruction set assumed. A group is one
// block.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace convinit {
namespace scalar {

template <class Out>
CONVINIT_HD void store(Out* to, const F32 (&even)[kVectors32], const F32 (&odd)[kVectors32]) {
  for (int i = 0; i < kVectors32; ++i) {
    convert(even[i], &to[2 * i]);
    convert(odd[i], &to[2 * i + 1]);
  }
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  to[0] = even;
  to[1] = odd;
}

}  // namespace scalar
}  // namespace convinit

#define CONVINIT_WITHOUT_MATCH
#include "cpu/fill_loop.inl"

namespace convinit {

const FunctionTable kPortableTable = scalar::make_table("portable");

}  // namespace convinit
