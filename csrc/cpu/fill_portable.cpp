// The fill loop, and the digest's, for any machine: scalar lanes, no instruction set assumed.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/lanes.h"
#include "cpu/lanes_portable.h"

#include "cpu/weigh.inl"

#include "cpu/fill_loop.inl"

namespace convinit {

const GenerateTable kPortableTable = scalar::make_table("portable");

}  // namespace convinit
