// See tiling.h.
#include "cpu/tiling.h"

#include <algorithm>
#include <cstring>

#include "cpu/fill.h"

namespace convinit {
namespace {

constexpr int64_t kInPlaceColumns = 16384;   // elements of a unit that is filled in place
constexpr int64_t kShortestInPlaceRow = 64;  // a shorter row costs more in part groups than a copy does
constexpr int64_t kTileRowBytes = 1024;      // of a tile whose rows are far apart in memory
constexpr Dim kSingleElement = {1, 1, 1};

const Dim& column_dim(const FillTask& task) {
  return task.num_dims > 0 ? task.dims[task.num_dims - 1] : kSingleElement;
}

// The dimension whose neighbours are nearest in memory.
int32_t nearest_in_memory(const FillTask& task) {
  int32_t nearest = task.num_dims - 1;
  for (int32_t d = 0; d < task.num_dims; ++d) {
    if (task.dims[d].data_stride < task.dims[nearest].data_stride) nearest = d;
  }
  return nearest;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where a unit starts and how much of it lies inside the tensor.
struct Unit {
  int64_t data, index;  // offset in memory and linear index, in elements
  int64_t rows, columns;
};

Unit locate(const Tiling& tiling, int64_t unit) {
  const FillTask& task = *tiling.task;
  const Dim& column = column_dim(task);
  const int64_t first_column = unit % tiling.column_tiles * tiling.tile_columns;
  unit /= tiling.column_tiles;
  const int64_t first_row = unit % tiling.row_tiles * tiling.tile_rows;
  unit /= tiling.row_tiles;
  Unit found{first_column * column.data_stride, task.start + first_column * column.index_stride, 1,
             std::min(tiling.tile_columns, column.size - first_column)};
  if (tiling.row >= 0) {
    const Dim& row = task.dims[tiling.row];
    found.data += first_row * row.data_stride;
    found.index += first_row * row.index_stride;
    found.rows = std::min(tiling.tile_rows, row.size - first_row);
  }
  for (int32_t d = task.num_dims - 2; d >= 0; --d) {
    if (d == tiling.row) continue;
    const int64_t position = unit % task.dims[d].size;
    unit /= task.dims[d].size;
    found.data += position * task.dims[d].data_stride;
    found.index += position * task.dims[d].index_stride;
  }
  return found;
}

// The unit's values, row after row, into `buffer`; in one run where rows follow each other in the index too.
void generate_tile(const FillTask& task, const Unit& unit, int64_t row_index_stride,
                   GenerateFunction generate, char* buffer) {
  const int64_t size = item_size(task.dtype);
  const int64_t step = column_dim(task).index_stride;
  if (step == 1 && (unit.rows == 1 || row_index_stride == unit.columns)) {
    generate(task.distribution, task.key, unit.index, unit.rows * unit.columns, buffer);
    return;
  }
  for (int64_t r = 0; r < unit.rows; ++r) {
    const int64_t index = unit.index + r * row_index_stride;
    char* row = buffer + r * unit.columns * size;
    if (step == 1) {
      generate(task.distribution, task.key, index, unit.columns, row);
      continue;
    }
    for (int64_t c = 0; c < unit.columns; ++c)
      generate(task.distribution, task.key, index + c * step, 1, row + c * size);
  }
}

// Copies rows x columns values to memory; the inner loop runs along the smaller stride.
template <class Item>
void scatter(const Item* from, int64_t rows, int64_t columns, Item* to, int64_t row_stride,
             int64_t column_stride) {
  if (column_stride == 1) {
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * row_stride, from + r * columns, columns * sizeof(Item));
  } else if (row_stride < column_stride) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) to[r * row_stride + c * column_stride] = from[r * columns + c];
    }
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) to[r * row_stride + c * column_stride] = from[r * columns + c];
    }
  }
}

template <class Item>
void scatter_unit(const Unit& unit, const void* from, void* data, int64_t row_stride, int64_t column_stride) {
  scatter(static_cast<const Item*>(from), unit.rows, unit.columns, static_cast<Item*>(data) + unit.data,
          row_stride, column_stride);
}

}  // namespace

Tiling make_tiling(const FillTask& task) {
  const Dim& column = column_dim(task);
  const int64_t size = item_size(task.dtype);
  Tiling tiling{&task, false, -1, 1, 0, 1, 0, 0, 0};
  tiling.in_place = column.data_stride == 1 && column.index_stride == 1 &&
                    (task.num_dims < 2 || column.size >= kShortestInPlaceRow);
  if (tiling.in_place) {
    tiling.tile_columns = std::min(column.size, kInPlaceColumns);
  } else {
    const int32_t nearest = nearest_in_memory(task);
    tiling.row = nearest < task.num_dims - 1 ? nearest : task.num_dims - 2;
    tiling.tile_columns = std::min(column.size, (tiling.row >= 0 ? kTileRowBytes : kTileBytes) / size);
  }
  if (tiling.row >= 0) {
    const int64_t rows = task.dims[tiling.row].size;
    tiling.tile_rows = std::min(rows, kTileBytes / (tiling.tile_columns * size));
    tiling.row_tiles = ceil_div(rows, tiling.tile_rows);
  }
  tiling.column_tiles = ceil_div(column.size, tiling.tile_columns);
  tiling.num_units = tiling.row_tiles * tiling.column_tiles;
  for (int32_t d = 0; d + 1 < task.num_dims; ++d) {
    if (d != tiling.row) tiling.num_units *= task.dims[d].size;
  }
  tiling.unit_bytes = tiling.tile_rows * tiling.tile_columns * size;
  return tiling;
}

void fill_unit(const Tiling& tiling, GenerateFunction generate, int64_t number, void* buffer) {
  const FillTask& task = *tiling.task;
  const Unit unit = locate(tiling, number);
  const int64_t size = item_size(task.dtype);
  if (tiling.in_place) {
    generate(task.distribution, task.key, unit.index, unit.columns,
             static_cast<char*>(task.data) + unit.data * size);
    return;
  }
  const Dim& row = tiling.row >= 0 ? task.dims[tiling.row] : kSingleElement;
  generate_tile(task, unit, row.index_stride, generate, static_cast<char*>(buffer));
  const int64_t column_stride = column_dim(task).data_stride;
  if (size == 1) scatter_unit<uint8_t>(unit, buffer, task.data, row.data_stride, column_stride);
  if (size == 2) scatter_unit<uint16_t>(unit, buffer, task.data, row.data_stride, column_stride);
  if (size == 4) scatter_unit<uint32_t>(unit, buffer, task.data, row.data_stride, column_stride);
  if (size == 8) scatter_unit<uint64_t>(unit, buffer, task.data, row.data_stride, column_stride);
}

}  // namespace convinit
