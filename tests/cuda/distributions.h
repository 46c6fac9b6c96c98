// Distributions of every kind, and of every way to make them, that the kernels' bodies are tested with.
#pragma once

#include <cmath>
#include <vector>

#include "core/prepare.h"

namespace convinit {

inline std::vector<Distribution> make_distributions() {
  std::vector<Distribution> distributions = {prepare_constant(0.1),          prepare_uniform(-0.25, 0.75),
                                             prepare_uniform(-3e-39, 5e-39), prepare_uniform(0, 1e-30),
                                             prepare_normal(0.5, 2),         prepare_normal(0, 200),
                                             prepare_normal(0, 1e5)};
  const double truncated[][4] = {{0, 1, -2, 2},          {0, 1, 5, 6},       {0, 1, -INFINITY, -9},
                                 {0, 1, 30, 31},         {0, 1, 0.1, 0.101}, {0, 1, -INFINITY, INFINITY},
                                 {0, 1, 1e12, INFINITY}, {0, 1, -20, -0.7}};
  for (const auto& params : truncated) distributions.push_back(prepare(Kind::kTruncatedNormal, params));
  return distributions;
}

}  // namespace convinit
