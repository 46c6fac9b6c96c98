// Cuts a task into units of work: a stretch of memory that is filled in place, or a tile that is generated in
// a buffer of cache size and scattered, when memory order is not index order.
#pragma once

#include "core/fill_task.h"
#include "cpu/generate.h"

namespace convinit {

constexpr int64_t kTileBytes = 32 * 1024;  // fits the L1 cache of any current machine, or nearly

// A unit covers `tile_rows` positions of dimension `row` and `tile_columns` of the last dimension, the one
// that is innermost in the index; the other dimensions are fixed.
struct Tiling {
  const FillTask* task;
  bool in_place;
  int32_t row;  // -1: none, a unit is part of one row
  int64_t tile_rows, tile_columns;
  int64_t row_tiles, column_tiles;
  int64_t num_units;
  int64_t unit_bytes;  // of a full one
};

Tiling make_tiling(const FillTask& task);

// Fills unit number `unit`; `buffer` has kTileBytes.
void fill_unit(const Tiling& tiling, GenerateFunction generate, int64_t unit, void* buffer);

}  // namespace convinit
