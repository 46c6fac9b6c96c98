// Layouts of tensors, and shapes of grids, that the bodies of the GPU's kernels are tested with on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "core/task.h"

namespace convinit {

constexpr int64_t kBorders[] = {int64_t{1} << 32, int64_t{1} << 33, int64_t{1} << 34};

struct Layout {
  const char* name;
  int64_t start;
  std::vector<Dim> dims;  // as FillTask wants them
};

constexpr int kGrids[] = {1, 3, 7, 300};  // blocks that run at once

inline std::vector<Layout> make_layouts() {
  std::vector<Layout> layouts;
  for (int64_t length : {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 129}) {
    for (int64_t start : {0, 1, 2, 3, 5, 8, 63}) layouts.push_back({"run", start, {{length, 1, 1}}});
  }
  for (int64_t border : kBorders) {
    layouts.push_back({"run across a border", border - 77, {{200, 1, 1}}});
    layouts.push_back({"rows across a border", border - 80, {{7, 48, 40}, {32, 1, 1}}});
    layouts.push_back({"whole blocks across a border", border - 80, {{7, 1, 40}, {40, 7, 1}}});
    layouts.push_back({"columns across a border", border - 81, {{7, 1, 40}, {37, 7, 1}}});
  }
  layouts.push_back({"scalar", 3, {}});
  layouts.push_back({"several units", 1, {{40011, 1, 1}}});
  layouts.push_back({"every third place", 0, {{1001, 3, 1}}});
  layouts.push_back({"every third index", 5, {{1001, 1, 3}}});
  layouts.push_back({"every fifth of both", 5, {{333, 5, 5}}});
  layouts.push_back({"transposed", 0, {{67, 1, 131}, {131, 67, 1}}});
  layouts.push_back({"transposed, whole blocks", 8, {{25, 1, 80}, {80, 25, 1}}});
  layouts.push_back(
      {"transposed, whole blocks of other lengths", 32, {{3, 24 * 17, 24 * 32}, {17, 1, 32}, {24, 17, 1}}});
  layouts.push_back({"transposed, several units", 0, {{515, 1, 201}, {201, 515, 1}}});
  layouts.push_back({"channels last", 0, {{5, 7 * 33, 33 * 7}, {33, 1, 7}, {7, 33, 1}}});
  layouts.push_back({"channels last, long rows", 0, {{5, 49 * 33, 33 * 49}, {33, 1, 49}, {49, 33, 1}}});
  layouts.push_back({"channels last, thin", 0, {{3, 9 * 2, 18}, {2, 1, 9}, {9, 2, 1}}});
  layouts.push_back({"columns of a wider matrix", 0, {{50, 40, 13}, {13, 1, 1}}});
  layouts.push_back({"aligned columns of it", 16, {{50, 64, 48}, {48, 1, 1}}});
  layouts.push_back({"part of a larger logical tensor", 1234, {{11, 29, 97}, {29, 1, 1}}});
  layouts.push_back({"aligned part of it", 1232, {{11, 32, 96}, {32, 1, 1}}});
  layouts.push_back({"every second column of it", 6, {{11, 29, 97}, {29, 1, 2}}});
  layouts.push_back({"the same index again", 6, {{11, 29, 97}, {29, 1, 0}}});
  layouts.push_back({"short steps in memory", 6, {{11, 1, 97}, {5, 11, 13}, {3, 55, 1}}});
  std::vector<Dim> many;
  for (int64_t d = 0; d < 10; ++d) many.push_back({2, int64_t{3} << d, int64_t{2} << (10 - d)});
  layouts.push_back({"ten dimensions", 9, many});
  return layouts;
}

// Places from the first element to the last.
inline int64_t extent(const std::vector<Dim>& dims) {
  int64_t last = 0;
  for (const Dim& dim : dims) last += (dim.size - 1) * dim.data_stride;
  return last + 1;
}

}  // namespace convinit
