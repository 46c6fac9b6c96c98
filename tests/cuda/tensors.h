// Tensors that the kernels are run for.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "core/prepare.h"
#include "core/task.h"
#include "distributions.h"
#include "layouts.h"

namespace convinit {

struct Tensor {
  Layout layout;
  Distribution distribution;
  DType dtype;
  int64_t shift;  // in elements, from an aligned place
  uint64_t number;

  Key key() const { return {0x0123456789abcdef ^ number, ~number}; }
  size_t shift_bytes() const { return static_cast<size_t>(shift * scalar::item_size(dtype)); }
  size_t num_bytes() const { return static_cast<size_t>(extent(layout.dims) * scalar::item_size(dtype)); }
  int32_t num_dims() const { return static_cast<int32_t>(layout.dims.size()); }
  FillTask task(void* data) const {
    return {data, layout.start, layout.dims.data(), num_dims(), dtype, key(), distribution};
  }
  DigestTask digest_task(const void* data) const {
    const auto size = static_cast<int32_t>(scalar::item_size(dtype));
    return {data, layout.start, layout.dims.data(), num_dims(), size, key()};
  }
};

// In every dtype, three distributions for each.
inline std::vector<Tensor> every_layout() {
  const std::vector<Distribution> distributions = make_distributions();
  std::vector<Tensor> tensors;
  for (const Layout& layout : make_layouts()) {
    for (int i = 0; i < 3 * kNumDTypes; ++i) {
      const uint64_t number = tensors.size();
      const auto& distribution =
          distributions[(number + number / distributions.size()) % distributions.size()];
      tensors.push_back(
          {layout, distribution, static_cast<DType>(i / 3), static_cast<int64_t>(number % 3), number});
    }
  }
  return tensors;
}

// Four runs and a transposed tensor of each.
inline std::vector<Tensor> every_distribution() {
  std::vector<Tensor> tensors;
  for (const Distribution& distribution : make_distributions()) {
    for (int i = 0; i < 5 * kNumDTypes; ++i) {
      Layout layout{"run", 7 * (i % 5), {{2001, 1, 1}}};
      if (i % 5 == 4) layout = {"transposed", 4, {{31, 1, 64}, {64, 31, 1}}};
      tensors.push_back({layout, distribution, static_cast<DType>(i / 5), i % 5, tensors.size()});
    }
  }
  return tensors;
}

// Up to four dimensions in any order in memory, with gaps; a shard or part of a logical tensor, or all of it;
// any distribution.
inline Tensor one_made_up(uint64_t number) {
  std::mt19937_64 random(number);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
  };
  const auto scale = [&] {
    return std::ldexp(static_cast<double>(below(1 << 20)) + 1, static_cast<int>(below(80)) - 60);
  };
  std::vector<Dim> dims(static_cast<size_t>(below(5)));
  int64_t place = below(3) == 0 ? 2 : 1, index = below(4) == 0 ? 2 : 1;
  for (size_t d = dims.size(); d-- > 0;) {
    dims[d].size = 2 + below(dims.size() > 2 ? 9 : 60);
    dims[d].index_stride = index;
    index = index * dims[d].size + (below(2) == 0 ? below(20) : 0);
  }
  std::vector<size_t> order(dims.size());
  for (size_t d = 0; d < order.size(); ++d) order[d] = order.size() - 1 - d;
  if (below(2) == 0) std::shuffle(order.begin(), order.end(), random);
  for (const size_t d : order) {
    dims[d].data_stride = place;
    place = place * dims[d].size + (below(2) == 0 ? below(9) : 0);
  }
  const int64_t starts[] = {0, below(64), kBorders[below(3)] * (1 + below(3)) - below(3000),
                            (int64_t{1} << 52) + below(9)};
  const double middle = scale() * (below(2) == 0 ? 1 : -1), width = scale(), sigma = scale();
  const double params[4][4] = {{middle},
                               {middle, middle + width},
                               {middle, sigma},
                               {middle, sigma, middle - width * below(9), middle + width}};
  const auto kind = static_cast<Kind>(below(kNumKinds));
  return {{"made up", starts[below(4)], dims},
          prepare(kind, params[static_cast<int>(kind)]),
          static_cast<DType>(below(kNumDTypes)),
          below(17),
          number};
}

inline std::vector<Tensor> made_up(int count) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back(one_made_up(static_cast<uint64_t>(i)));
  return tensors;
}

}  // namespace convinit
