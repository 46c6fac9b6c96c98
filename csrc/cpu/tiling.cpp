// See tiling.h.
#include "cpu/tiling.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/dtype.h"
#include "cpu/transpose.h"

namespace convinit {
namespace {

constexpr int64_t kInPlaceColumns = 16384;     // elements of a unit in place
constexpr int64_t kShortestInPlaceRow = 64;    // a shorter row costs more in part groups than a copy does
constexpr int64_t kTileColumns = 512;          // of a tile: each of its rows has a cost of its own
constexpr int64_t kFarBytes = 2 * kLineBytes;  // of a tile's rows in memory, where its columns are far apart
// Lines of rows that are a multiple of so many bytes apart share few places of a cache. In the buffer there
// is a line between them, unless the rows are one run of indices and too short to be digested each by itself.
constexpr int64_t kFewPlaces = 256;
constexpr int64_t kLongRow = 1024;
constexpr Dim kSingleElement = {1, 1, 1};

const Dim& column_dim(const Strided& tensor) {
  return tensor.num_dims > 0 ? tensor.dims[tensor.num_dims - 1] : kSingleElement;
}

// The dimension whose neighbours are nearest in memory.
int32_t nearest_in_memory(const Strided& tensor) {
  int32_t nearest = tensor.num_dims - 1;
  for (int32_t d = 0; d < tensor.num_dims; ++d) {
    if (tensor.dims[d].data_stride < tensor.dims[nearest].data_stride) nearest = d;
  }
  return nearest;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Copies rows x columns values from one pair of strides to another; the inner loop runs along the smaller
// stride of the memory, which is far.
template <class Item>
void copy(const Item* from, int64_t from_row, int64_t from_column, Item* to, int64_t to_row,
          int64_t to_column, const Unit& unit) {
  if (from_column == 1 && to_column == 1) {
    for (int64_t r = 0; r < unit.rows; ++r)
      std::memcpy(to + r * to_row, from + r * from_row, unit.columns * sizeof(Item));
    return;
  }
  const bool along_rows = unit.row.data_stride < unit.column.data_stride;
  const int64_t lines = along_rows ? unit.columns : unit.rows, length = along_rows ? unit.rows : unit.columns;
  if (along_rows) {
    std::swap(from_row, from_column);
    std::swap(to_row, to_column);
  }
  for (int64_t i = 0; i < lines; ++i) {
    for (int64_t j = 0; j < length; ++j)
      to[i * to_row + j * to_column] = from[i * from_row + j * from_column];
  }
}

template <class Item>
void scatter_items(const Unit& unit, const void* buffer, void* memory) {
  const auto* from = static_cast<const Item*>(buffer);
  Item* to = static_cast<Item*>(memory) + unit.data;
  if (unit.row.data_stride == 1 && unit.rows > 1)
    return copy_transposed<false>(from, unit.pitch, to, unit.column.data_stride, unit.rows, unit.columns);
  copy(from, unit.pitch, 1, to, unit.row.data_stride, unit.column.data_stride, unit);
}

template <class Item>
void gather_items(const Unit& unit, const void* memory, void* buffer) {
  const Item* from = static_cast<const Item*>(memory) + unit.data;
  Item* to = static_cast<Item*>(buffer);
  if (unit.row.data_stride == 1 && unit.rows > 1)
    return copy_transposed<true>(from, unit.column.data_stride, to, unit.pitch, unit.columns, unit.rows);
  copy(from, unit.row.data_stride, unit.column.data_stride, to, unit.pitch, 1, unit);
}

}  // namespace

Strided strided(const FillTask& task) {
  return {task.start, task.dims, task.num_dims, scalar::item_size(task.dtype)};
}

Strided strided(const DigestTask& task) { return {task.start, task.dims, task.num_dims, task.item_size}; }

Tiling make_tiling(const Strided& tensor) {
  const Dim& column = column_dim(tensor);
  const int64_t size = tensor.item_size;
  Tiling tiling{tensor, false, -1, 1, 0, 0, 1, 0, 0, 0};
  tiling.in_place = column.data_stride == 1 && column.index_stride == 1 &&
                    (tensor.num_dims < 2 || column.size >= kShortestInPlaceRow);
  if (tiling.in_place) {
    tiling.tile_columns = std::min(column.size, kInPlaceColumns);
  } else {
    const int32_t nearest = nearest_in_memory(tensor);
    tiling.row = nearest < tensor.num_dims - 1 ? nearest : tensor.num_dims - 2;
    tiling.tile_columns = std::min(column.size, tiling.row >= 0 ? kTileColumns : kTileBytes / size);
  }
  tiling.pitch = tiling.tile_columns;
  if (tiling.row >= 0) {
    const Dim& row = tensor.dims[tiling.row];
    const int64_t row_bytes = tiling.tile_columns * size;
    const int64_t line = kLineBytes / size, most = std::max(kTileBytes / row_bytes, kFarBytes / size);
    const int64_t even = ceil_div(row.size, ceil_div(row.size, most));
    tiling.tile_rows = std::min(row.size, ceil_div(even, line) * line);  // whole squares of transpose.h
    tiling.row_tiles = ceil_div(row.size, tiling.tile_rows);
    const bool is_run = column.index_stride == 1 && row.index_stride == tiling.tile_columns;
    if ((!is_run || row_bytes >= kLongRow) && row_bytes % kFewPlaces == 0) tiling.pitch += kLineBytes / size;
  }
  tiling.column_tiles = ceil_div(column.size, tiling.tile_columns);
  tiling.num_units = tiling.row_tiles * tiling.column_tiles;
  for (int32_t d = 0; d + 1 < tensor.num_dims; ++d) {
    if (d != tiling.row) tiling.num_units *= tensor.dims[d].size;
  }
  tiling.unit_bytes = tiling.tile_rows * tiling.tile_columns * size;
  return tiling;
}

Unit locate(const Tiling& tiling, int64_t number) {
  const Strided& tensor = tiling.tensor;
  const Dim& column = column_dim(tensor);
  // Rows first: where they are neighbours in memory, the next tile is likely to be in pages just looked up.
  const int64_t first_row = number % tiling.row_tiles * tiling.tile_rows;
  number /= tiling.row_tiles;
  const int64_t first_column = number % tiling.column_tiles * tiling.tile_columns;
  number /= tiling.column_tiles;
  Unit found{first_column * column.data_stride,
             tensor.start + first_column * column.index_stride,
             1,
             std::min(tiling.tile_columns, column.size - first_column),
             tiling.pitch,
             kSingleElement,
             column};
  if (tiling.row >= 0) {
    found.row = tensor.dims[tiling.row];
    found.data += first_row * found.row.data_stride;
    found.index += first_row * found.row.index_stride;
    found.rows = std::min(tiling.tile_rows, found.row.size - first_row);
  }
  for (int32_t d = tensor.num_dims - 2; d >= 0; --d) {
    if (d == tiling.row) continue;
    const int64_t position = number % tensor.dims[d].size;
    number /= tensor.dims[d].size;
    found.data += position * tensor.dims[d].data_stride;
    found.index += position * tensor.dims[d].index_stride;
  }
  return found;
}

void scatter(const Tiling& tiling, const Unit& unit, const void* buffer, void* memory) {
  visit_bits(tiling.tensor.item_size,
             [&](auto bits) { scatter_items<decltype(bits)>(unit, buffer, memory); });
}

void gather(const Tiling& tiling, const Unit& unit, const void* memory, void* buffer) {
  visit_bits(tiling.tensor.item_size, [&](auto bits) { gather_items<decltype(bits)>(unit, memory, buffer); });
}

}  // namespace convinit
