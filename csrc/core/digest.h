// The sizes of docs/fingerprint.md: a tensor's digest is four sums of its words, weighed by a table and by a
// chunk's factors (core/weights.h).
#pragma once

#include "core/fill_task.h"

namespace convinit {

constexpr int kSums = 4;
constexpr int64_t kChunkWords = 1024;
constexpr int64_t kChunkBytes = kChunkWords * 4;
constexpr int kTableShift = 16;  // from one sum's weights to the next one's
constexpr int kTableWords = kChunkWords + kTableShift * (kSums - 1);

}  // namespace convinit
