// Cuts a tensor into units of work: a stretch of memory in index order, or a tile that passes through a
// buffer of cache size, when memory order is not index order.
#pragma once

#include <cstddef>
#include <vector>

#include "core/task.h"

namespace convinit {

constexpr int64_t kLineBytes = 64;                // of a cache
constexpr int64_t kTileBytes = 32 * 1024;         // fits the L1 cache of any current machine, or nearly
constexpr int64_t kLargestTileBytes = 72 * 1024;  // with what is between its rows in the buffer
constexpr int64_t kLargestTileLines = kLargestTileBytes / kLineBytes;

// A tensor's memory, and which part of a logical tensor it is. Dimensions as in FillTask.
struct Strided {
  int64_t start;  // linear index of the first element
  const Dim* dims;
  int32_t num_dims;
  int64_t item_size;  // bytes
};

Strided strided(const FillTask& task);
Strided strided(const DigestTask& task);

// A unit covers `tile_rows` positions of dimension `row` and `tile_columns` of the last dimension, the one
// that is innermost in the index; the other dimensions are fixed.
struct Tiling {
  Strided tensor;
  bool in_place;
  int32_t row;  // -1: none, a unit is part of one row
  int64_t tile_rows, tile_columns;
  int64_t pitch;  // elements from one row of a tile to the next in the buffer
  int64_t row_tiles, column_tiles;
  int64_t num_units;
  int64_t unit_bytes;  // of a full one
};

Tiling make_tiling(const Strided& tensor);

template <class Task>
std::vector<Tiling> tilings_of(const Task* tasks, int64_t num_tasks) {
  std::vector<Tiling> tilings;
  tilings.reserve(static_cast<size_t>(num_tasks));
  for (int64_t t = 0; t < num_tasks; ++t) tilings.push_back(make_tiling(strided(tasks[t])));
  return tilings;
}

// Calls visit with an unsigned number that has as many bytes as an element.
template <class Visit>
auto visit_bits(int64_t item_size, Visit visit) {
  switch (item_size) {
    case 1:
      return visit(uint8_t{});
    case 2:
      return visit(uint16_t{});
    case 4:
      return visit(uint32_t{});
    default:
      return visit(uint64_t{});
  }
}

// Where a unit starts and how much of it lies inside the tensor. Strides are those of its rows and columns.
struct Unit {
  int64_t data, index;  // offset in memory and linear index, in elements
  int64_t rows, columns, pitch;
  Dim row, column;
};

Unit locate(const Tiling& tiling, int64_t number);

// Between the tensor's memory and a buffer that holds the unit's rows.
void scatter(const Tiling& tiling, const Unit& unit, const void* buffer, void* memory);
void gather(const Tiling& tiling, const Unit& unit, const void* memory, void* buffer);

// Calls visit(linear index, number of elements, their place in the buffer, in elements) for the stretches of
// a unit in the buffer whose indices follow each other.
template <class Visit>
void for_each_run(const Unit& unit, Visit visit) {
  if (unit.column.index_stride == 1 &&
      (unit.rows == 1 || (unit.row.index_stride == unit.columns && unit.pitch == unit.columns))) {
    visit(unit.index, unit.rows * unit.columns, int64_t{0});
    return;
  }
  for (int64_t r = 0; r < unit.rows; ++r) {
    const int64_t index = unit.index + r * unit.row.index_stride, place = r * unit.pitch;
    if (unit.column.index_stride == 1) {
      visit(index, unit.columns, place);
      continue;
    }
    for (int64_t c = 0; c < unit.columns; ++c)
      visit(index + c * unit.column.index_stride, int64_t{1}, place + c);
  }
}

}  // namespace convinit
