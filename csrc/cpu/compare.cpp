// compare() of fill.h: every unit's values are held against the memory as they are generated, and where they
// differ, once more in a buffer.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "cpu/ahead.h"
#include "cpu/fill.h"
#include "cpu/float_environment.h"
#include "cpu/units.h"

namespace convinit {
namespace {

constexpr int64_t kStretchBytes = 8 * 1024;  // that are looked at closely where an element differs

// Of neighbouring elements; `first` is a place among them.
template <class Item>
Difference compare_items(const char* one, const char* other, int64_t count) {
  const auto at = [](const char* items, int64_t i) {
    Item item;
    std::memcpy(&item, items + i * sizeof(Item), sizeof item);
    return item;
  };
  Difference found{0, 0};
  while (found.first < count && at(one, found.first) == at(other, found.first)) ++found.first;
  for (int64_t i = found.first; i < count; ++i) found.count += at(one, i) != at(other, i);
  return found;
}

Difference compare_items(const char* one, const char* other, int64_t count, int64_t size) {
  if (size == 1) return compare_items<uint8_t>(one, other, count);
  if (size == 2) return compare_items<uint16_t>(one, other, count);
  if (size == 4) return compare_items<uint32_t>(one, other, count);
  return compare_items<uint64_t>(one, other, count);
}

void add(const Difference& part, Difference* whole) {
  if (part.count == 0) return;
  whole->first = whole->count == 0 ? part.first : std::min(whole->first, part.first);
  whole->count += part.count;
}

// Neighbouring elements in memory, from linear index `index` on.
void compare_run(const FillTask& task, const Functions& functions, int64_t index, int64_t count,
                 const char* present, int64_t size, char* buffer, Difference* found) {
  while (count > 0) {
    const int64_t same = functions.match(task.distribution, task.key, index, count, present);
    const int64_t length = std::min(count - same, kStretchBytes / size);
    if (length > 0) {
      functions.generate(task.distribution, task.key, index + same, length, buffer);
      Difference part = compare_items(buffer, present + same * size, length, size);
      part.first += index + same;
      add(part, found);
    }
    index += same + length;
    count -= same + length;
    present += (same + length) * size;
  }
}

void compare_unit(const FillTask& task, const Functions& functions, const Tiling& tiling, int64_t number,
                  char* buffer, Difference* found) {
  const Unit unit = locate(tiling, number);
  const int64_t size = tiling.tensor.item_size;
  if (tiling.in_place) {
    const char* present = static_cast<const char*>(task.data) + unit.data * size;
    return compare_run(task, functions, unit.index, unit.columns, present, size, buffer, found);
  }
  char* const present = buffer + kTileBytes;
  gather(tiling, unit, task.data, present);
  if (number + 1 < tiling.num_units)
    Ahead(locate(tiling, number + 1), task.data, size).prefetch(kTileBytes / Ahead::kLineBytes);
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    compare_run(task, functions, index, count, present + place * size, size, buffer, found);
  });
}

}  // namespace

void compare(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
             Difference* differences) {
  const GenerateTable& table = current_table();
  std::fill_n(differences, num_tasks, Difference{0, -1});
  std::mutex mutex;
  const Schedule schedule(tilings_of(tasks, num_tasks), num_threads);
  schedule.run(run_workers, [&](size_t t, int64_t first, int64_t last, char* buffer) {
    const DefaultFloatEnvironment environment;
    const Tiling& tiling = schedule.tiling(t);
    const Functions& functions = functions_of(table, tasks[t]);
    Difference found{0, -1};
    for (int64_t number = first; number < last; ++number)
      compare_unit(tasks[t], functions, tiling, number, buffer, &found);
    const std::lock_guard<std::mutex> lock(mutex);
    add(found, &differences[t]);
  });
}

}  // namespace convinit
