// compare() of engine.h: every unit's values are held against the memory as they are generated, and where
// they differ, once more in a buffer.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "cpu/ahead.h"
#include "cpu/engine.h"
#include "cpu/isa.h"

namespace convinit {
namespace {

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

void add(const Difference& part, Difference* whole) {
  if (part.count == 0) return;
  whole->first = whole->count == 0 ? part.first : std::min(whole->first, part.first);
  whole->count += part.count;
}

// Neighbouring elements in memory, from linear index `index` on.
void compare_run(const FillTask& task, const Functions& functions, int64_t index, int64_t count,
                 const char* present, int64_t size, char* buffer, Difference* found) {
  while (count > 0) {
    const int64_t same =
        functions.match == nullptr ? 0 : functions.match(task.distribution, task.key, index, count, present);
    const int64_t length = std::min(count - same, kStretchBytes / size);
    if (length > 0) {
      functions.generate(task.distribution, task.key, index + same, length, buffer);
      if (std::memcmp(buffer, present + same * size, static_cast<size_t>(length * size)) != 0) {
        Difference part = visit_bits(size, [&](auto bits) {
          return compare_items<decltype(bits)>(buffer, present + same * size, length);
        });
        part.first += index + same;
        add(part, found);
      }
    }
    index += same + length;
    count -= same + length;
    present += (same + length) * size;
  }
}

}  // namespace

void compare(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
             Difference* differences) {
  const FunctionTable& table = current_table();
  std::fill_n(differences, num_tasks, Difference{0, -1});
  std::mutex mutex;
  const WorkQueue queue(tilings_of(tasks, num_tasks), num_threads);
  queue.run(run_workers, [&](size_t t, int64_t first, int64_t last, char* buffer) {
    const Tiling& tiling = queue.tiling(t);
    const Functions& functions = functions_of(table, tasks[t]);
    Difference found{0, -1};
    for (int64_t number = first; number < last; ++number) {
      read_unit(tiling, number, tasks[t].data, buffer,
                [&](int64_t index, int64_t count, const char* present, Ahead* next) {
                  // The functions prefetch what is in place.
                  if (present == buffer) next->prefetch(kLargestTileLines);
                  compare_run(tasks[t], functions, index, count, present, tiling.tensor.item_size,
                              buffer + kLargestTileBytes, &found);
                });
    }
    const std::lock_guard<std::mutex> lock(mutex);
    add(found, &differences[t]);
  });
}

}  // namespace convinit
