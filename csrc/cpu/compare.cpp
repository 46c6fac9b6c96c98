// compare() of fill.h: every unit's values are generated in a buffer and held against the memory.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "cpu/ahead.h"
#include "cpu/fill.h"
#include "cpu/float_environment.h"
#include "cpu/units.h"

namespace convinit {
namespace {

constexpr int64_t kStretchBytes = 2048;

// Of neighbouring elements that are not all equal; `first` is a place among them.
template <class Item>
Difference compare_items(const char* one, const char* other, int64_t count) {
  const auto at = [](const char* items, int64_t i) {
    Item item;
    std::memcpy(&item, items + i * sizeof(Item), sizeof item);
    return item;
  };
  Difference found{0, 0};
  while (at(one, found.first) == at(other, found.first)) ++found.first;
  for (int64_t i = found.first; i < count; ++i) found.count += at(one, i) != at(other, i);
  return found;
}

Difference compare_run(const char* one, const char* other, int64_t count, int64_t size) {
  if (std::memcmp(one, other, count * size) == 0) return {0, -1};
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

// Asks for memory that will be looked at soon, while values are generated.
void prefetch(const char* data, int64_t num_bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t at = 0; at < num_bytes; at += kLine) __builtin_prefetch(data + at);
}

// The unit's own memory, stretch by stretch of what stays in the fastest cache beside it.
void compare_in_place(const FillTask& task, const Unit& unit, int64_t size, GenerateFunction generate,
                      char* buffer, Difference* found) {
  const char* data = static_cast<const char*>(task.data) + unit.data * size;
  const int64_t step = kStretchBytes / size;
  for (int64_t done = 0; done < unit.columns; done += step) {
    const int64_t count = std::min(step, unit.columns - done), index = unit.index + done;
    prefetch(data + done * size, count * size);
    generate(task.distribution, task.key, index, count, buffer);
    Difference part = compare_run(buffer, data + done * size, count, size);
    part.first += index;
    add(part, found);
  }
}

void compare_tile(const FillTask& task, const Tiling& tiling, const Unit& unit, GenerateFunction generate,
                  char* buffer, Difference* found) {
  const int64_t size = tiling.tensor.item_size;
  char* const present = buffer + kTileBytes;
  Ahead(unit, task.data, size).prefetch(kTileBytes / Ahead::kLineBytes);
  generate_tile(task, unit, size, generate, buffer);
  gather(tiling, unit, task.data, present);
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    Difference part = compare_run(buffer + place * size, present + place * size, count, size);
    part.first += index;
    add(part, found);
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
    const GenerateFunction generate = generator_of(table, tasks[t]);
    Difference found{0, -1};
    for (int64_t number = first; number < last; ++number) {
      const Unit unit = locate(tiling, number);
      if (tiling.in_place) {
        compare_in_place(tasks[t], unit, tiling.tensor.item_size, generate, buffer, &found);
      } else {
        compare_tile(tasks[t], tiling, unit, generate, buffer, &found);
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    add(found, &differences[t]);
  });
}

}  // namespace convinit
