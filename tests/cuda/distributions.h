// Distributions of every kind, and of every way to make them, that the kernels' bodies are tested with.
#pragma once

#include <cmath>
#include <vector>

#include "core/prepare.h"

namespace convinit {

// Most with parameters whose products are not exact, so that it shows where a multiplication and an addition
// are one.
inline std::vector<Distribution> make_distributions() {
  std::vector<Distribution> distributions = {prepare_constant(0.1),        prepare_uniform(-0.1, 0.7),
                                             prepare_uniform(-0.25, 0.75), prepare_uniform(-3e-39, 5e-39),
                                             prepare_uniform(0, 1e-30),    prepare_uniform(-1e-3, 65000),
                                             prepare_normal(0.1, 0.3),     prepare_normal(0.5, 2),
                                             prepare_normal(0, 200),       prepare_normal(0, 1e5)};
  const double truncated[][4] = {
      {0, 1, -2, 2},          {0.1, 0.3, -0.5, 0.7}, {0.1, 0.3, 1.6, 1.9},    {0, 1, -INFINITY, -9},
      {0.1, 0.3, 9.1, 9.4},   {0, 1, 0.1, 0.101},    {0.1, 0.3, 0.2, 0.2007}, {0, 1, -INFINITY, INFINITY},
      {0, 1, 1e12, INFINITY}, {0.1, 0.3, -6, -0.11}, {-0.1, 0.3, 0.11, 6},    {7, 0.3, -INFINITY, 4}};
  for (const auto& params : truncated) distributions.push_back(prepare(Kind::kTruncatedNormal, params));
  return distributions;
}

}  // namespace convinit
