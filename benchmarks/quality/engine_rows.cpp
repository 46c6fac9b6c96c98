// Fills tensors by this processor's instruction set, or by nvcc's PTX on the CPU (tests/ptx), and digests
// them: what one_fingerprint.py runs in an emulator. Reads a line for each tensor from standard input,
//
//     KIND FOUR_PARAMETERS DTYPE NUM_ELEMENTS KEY STREAM DIGEST_KEY DIGEST_STREAM
//
// and prints its sums. `make build/arm/engine_rows` and `make build/ptx/90/engine_rows` make it.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/digest.h"
#include "core/dtype.h"
#include "core/prepare.h"
#include "cpu/engine.h"
#include "cpu/isa.h"
#if __has_include("gpu.h")
#include "cuda/engine.h"
#include "gpu.h"
#endif

namespace {

using namespace convinit;  // NOLINT: this is a program of that namespace

constexpr int64_t kPiece = 1 << 18;  // elements in memory at once

#if __has_include("gpu.h")
using Memory = gpu::Memory;

void check(const char* error) {
  if (error == nullptr) return;
  std::fprintf(stderr, "a launch failed: %s\n", error);
  std::exit(1);
}

void fill_and_digest(const FillTask& filled, const DigestTask& digested, uint64_t* sums) {
  const int64_t row = 0;
  const gpu::Memory found(kSums * sizeof(uint64_t));
  std::vector<uint64_t> image(cuda::kParameterBytes / sizeof(uint64_t));
  int64_t num_bytes = cuda::pack(&filled, nullptr, 1, image.data());
  check(cuda::launch_fill({image.data(), num_bytes, nullptr}, {}, nullptr));
  gpu::synchronize();
  num_bytes = cuda::pack(&digested, &row, 1, image.data());
  check(cuda::launch_digest({image.data(), num_bytes, nullptr}, {reinterpret_cast<int64_t*>(found.data()), 1},
                            nullptr));
  gpu::synchronize();
  std::memcpy(sums, found.data(), found.size());
}

const char* engine() { return "ptx"; }
#else
using Memory = std::vector<char>;

void fill_and_digest(const FillTask& filled, const DigestTask& digested, uint64_t* sums) {
  const auto run_here = [](int64_t, const std::function<void()>& worker) { worker(); };
  fill(&filled, 1, 1, run_here);
  digest(&digested, 1, 1, run_here, sums);
}

const char* engine() { return current_table().isa; }
#endif

}  // namespace

int main() {
  int kind, type;
  int64_t count;
  double params[4];
  Key key, digest_key;
  Memory memory(kPiece * sizeof(double));
  std::printf("%s\n", engine());
  while (std::scanf("%d %la %la %la %la %d %" SCNd64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &kind,
                    &params[0], &params[1], &params[2], &params[3], &type, &count, &key.key, &key.stream,
                    &digest_key.key, &digest_key.stream) == 11) {
    const auto dtype = static_cast<DType>(type);
    const Distribution distribution = prepare(static_cast<Kind>(kind), params);
    uint64_t total[kSums] = {};
    for (int64_t start = 0; start < count; start += kPiece) {
      const Dim dim{std::min(kPiece, count - start), 1, 1};
      const int32_t num_dims = dim.size > 1;
      uint64_t sums[kSums];
      fill_and_digest(
          {memory.data(), start, &dim, num_dims, dtype, key, distribution},
          {memory.data(), start, &dim, num_dims, static_cast<int32_t>(scalar::item_size(dtype)), digest_key},
          sums);
      for (int a = 0; a < kSums; ++a) total[a] += sums[a];
    }
    for (const uint64_t sum : total) std::printf("%" PRIu64 " ", sum);
    std::printf("\n");
    std::fflush(stdout);
  }
}
