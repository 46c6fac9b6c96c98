// One unit's values, made by an instruction set's generator.
#pragma once

#include "cpu/isa.h"
#include "cpu/tiling.h"

namespace convinit {

inline const Functions& functions_of(const GenerateTable& table, const FillTask& task) {
  return table.functions[static_cast<int>(task.distribution.kind)][static_cast<int>(task.dtype)];
}

// The unit's values in a buffer, row after row.
inline void generate_tile(const FillTask& task, const Unit& unit, int64_t item_size,
                          GenerateFunction generate, char* buffer) {
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    generate(task.distribution, task.key, index, count, buffer + place * item_size);
  });
}

inline std::vector<Tiling> tilings_of(const FillTask* tasks, int64_t num_tasks) {
  std::vector<Tiling> tilings;
  tilings.reserve(static_cast<size_t>(num_tasks));
  for (int64_t t = 0; t < num_tasks; ++t) tilings.push_back(make_tiling(strided(tasks[t])));
  return tilings;
}

}  // namespace convinit
