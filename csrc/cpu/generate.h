// What an instruction set provides: functions that write the values of consecutive linear indices to
// consecutive memory.
#pragma once

#include "core/fill_task.h"

namespace convinit {

// Writes the values at linear indices [start, start + count) to `out`. Any start, any count >= 0.
using GenerateFunction = void (*)(const Distribution& distribution, const Key& key, int64_t start,
                                  int64_t count, void* out);

struct GenerateTable {
  const char* isa;
  GenerateFunction functions[kNumKinds][kNumDTypes];
};

extern const GenerateTable kPortableTable;
#if defined(__x86_64__)
extern const GenerateTable kAvx2Table;
extern const GenerateTable kAvx512Table;
#endif

}  // namespace convinit
