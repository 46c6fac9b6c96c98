// Reads a tensor unit by unit, and prefetches memory that will be read soon.
#pragma once

#include "cpu/tiling.h"

namespace convinit {

constexpr int64_t kAheadBytes = 6 * 1024;  // in one stretch; by measurement: half is late, twice no better

// The lines of a unit's memory, or of one stretch. Stretches are far from each other, and the processor,
// which guesses what comes next in one stretch only, and not beyond a page, would wait at the start of each.
class Ahead {
 public:
  static constexpr int64_t kLineWords = kLineBytes / 4;

  Ahead() = default;  // of nothing
  Ahead(const Unit& unit, const void* data, int64_t item_size) {
    const bool is_transposed = unit.row.data_stride < unit.column.data_stride;
    const Dim& near = is_transposed ? unit.row : unit.column;
    const Dim& far = is_transposed ? unit.column : unit.row;
    stretch_bytes_ = (is_transposed ? unit.rows : unit.columns) * near.data_stride * item_size;
    num_left_ = is_transposed ? unit.columns : unit.rows;
    step_ = far.data_stride * item_size;
    start(static_cast<const char*>(data) + unit.data * item_size);
  }

  // Of one stretch, which may end outside what there is: nothing is read.
  Ahead(const char* stretch, int64_t num_bytes) : stretch_bytes_(num_bytes), num_left_(1) { start(stretch); }

  // Always inlined: what the files of the instruction sets call, none of them may define for the others.
  inline __attribute__((always_inline)) void prefetch(int64_t num_lines) {
    for (; num_lines > 0 && num_left_ > 0; --num_lines) {
      __builtin_prefetch(line_, 0, kSecondLevel);
      line_ += kLineBytes;
      if (line_ < stretch_ + stretch_bytes_) continue;
      start(stretch_ + step_);
      --num_left_;
    }
  }

 private:
  static constexpr int kSecondLevel = 2;  // of the caches: in the first, a tile would drive another out

  inline __attribute__((always_inline)) void start(const char* stretch) {
    stretch_ = stretch;
    line_ = stretch - reinterpret_cast<uintptr_t>(stretch) % kLineBytes;
  }

  const char *stretch_ = nullptr, *line_ = nullptr;
  int64_t stretch_bytes_ = 0, step_ = 0, num_left_ = 0;
};

// Calls visit(linear index, number of elements, where they are, what comes next in memory) for the stretches
// of a unit whose indices follow each other. Where they do not in memory, the unit is in the buffer then.
template <class Visit>
void read_unit(const Tiling& tiling, int64_t number, const void* data, char* buffer, Visit visit) {
  const Unit unit = locate(tiling, number);
  const int64_t size = tiling.tensor.item_size;
  Ahead next;
  if (tiling.in_place) {
    const char* elements = static_cast<const char*>(data) + unit.data * size;
    next = Ahead(elements + kAheadBytes, unit.columns * size);
    return visit(unit.index, unit.columns, elements, &next);
  }
  gather(tiling, unit, data, buffer);
  if (number + 1 < tiling.num_units) next = Ahead(locate(tiling, number + 1), data, size);
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    visit(index, count, buffer + place * size, &next);
  });
  next.prefetch(kLargestTileLines);  // stretches that begin and end within lines have more than bytes say
}

}  // namespace convinit
