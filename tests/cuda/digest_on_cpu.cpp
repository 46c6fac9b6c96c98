// The digest kernel's body on the host: every thread of several grids, over lists of every layout and size of
// element. Sums must be the CPU engine's, and nothing outside a tensor may be read, which AddressSanitizer
// finds out. Run by tests/test_cuda_body.py, and under the sanitizers by `make sanitize`.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "block_on_cpu.h"
#include "core/weights.h"
#include "cpu/digest.h"
#include "cuda/pack_digest.h"
#include "layouts.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

std::vector<Layout> make_layouts_to_read() {
  std::vector<Layout> layouts = make_layouts();
  for (int64_t length : {1021, 1024, 4096, 5000, 70001}) {
    for (int64_t start : {0, 1, 3, 1023, 4095, 8192}) layouts.push_back({"chunks", start, {{length, 1, 1}}});
  }
  layouts.push_back({"one element in all places", 2, {{77, 0, 31}, {31, 0, 1}}});
  layouts.push_back({"one row again and again", 0, {{50, 0, 1000}, {1000, 1, 1}}});
  layouts.push_back({"long rows", 17, {{9, 3100, 2999}, {2999, 1, 1}}});
  layouts.push_back({"few columns, many chunks", 5, {{3000, 3, 700}, {2, 1, 1}}});
  return layouts;
}

// A tensor alone in its memory, `shift_bytes` after a multiple of 16.
class Tensor {
 public:
  Tensor(const Layout& layout, int64_t item_size, int64_t shift_bytes, uint64_t number)
      : layout_(layout),
        key_{0x0123456789abcdef ^ number, ~number},
        item_size_(item_size),
        shift_(shift_bytes) {
    bytes_.resize(static_cast<size_t>(shift_ + extent(layout.dims) * item_size));
    uint64_t state = number;
    for (unsigned char& byte : bytes_) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<unsigned char>(state >> 56);
    }
  }

  // Of the CPU's engine.
  void expect(uint64_t* sums) const {
    const DigestTask task{data(), {layout_.start, layout_.dims.data(), num_dims(), item_size_}, key_};
    digest(&task, 1, 1, [](int64_t, const std::function<void()>& worker) { worker(); }, sums);
  }

  cuda::DigestInput input(int64_t row) const {
    return {data(), layout_.start, layout_.dims.data(), num_dims(), static_cast<int32_t>(item_size_), key_,
            row};
  }

  void complain() const {
    std::printf("%s, start %lld, elements of %lld bytes, at byte %lld: wrong sums\n", layout_.name,
                static_cast<long long>(layout_.start), static_cast<long long>(item_size_),
                static_cast<long long>(shift_));
    std::exit(1);
  }

 private:
  const void* data() const { return bytes_.data() + shift_; }
  int32_t num_dims() const { return static_cast<int32_t>(layout_.dims.size()); }

  Layout layout_;
  Key key_;
  int64_t item_size_, shift_;
  std::vector<unsigned char> bytes_;
};

void check(const std::vector<Tensor>& tensors, const std::vector<uint64_t>& expected, const Grid& grid,
           const cuda::DigestMeasure& measure = {}) {
  std::vector<cuda::DigestInput> inputs;
  for (const Tensor& tensor : tensors) inputs.push_back(tensor.input(static_cast<int64_t>(inputs.size())));
  const auto num_inputs = static_cast<int64_t>(inputs.size());
  const auto list = cuda::pack_digest_list(inputs.data(), num_inputs, measure);
  const int64_t bytes = cuda::image_size(list);
  if (bytes > cuda::largest_digest_image(inputs.data(), num_inputs))
    std::printf("a larger image than told\n");
  std::vector<uint64_t> image(static_cast<size_t>(bytes) / sizeof(uint64_t)), sums(expected.size());
  cuda::write_image(list, image.data());
  digest_on_grid(image.data(), grid.blocks, grid.threads, sums.data());
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (std::equal(&sums[t * kSums], &sums[t * kSums] + kSums, &expected[t * kSums])) continue;
    std::printf("grid %u x %u: ", grid.blocks, grid.threads);
    tensors[t].complain();
  }
}

std::vector<Tensor> make_tensors() {
  std::vector<Tensor> tensors;
  uint64_t number = 0;
  for (const Layout& layout : make_layouts_to_read()) {
    const bool anywhere =
        layout.dims.size() == 1 && layout.dims[0].data_stride == 1 && layout.dims[0].index_stride == 1;
    for (int64_t item_size : {1, 2, 4, 8}) {
      for (int turn = 0; turn < 3; ++turn) {
        const auto shift = static_cast<int64_t>(++number % 17);
        // Only a run may lie at any byte.
        tensors.emplace_back(layout, item_size, anywhere ? shift : shift / item_size * item_size, number);
      }
    }
  }
  return tensors;
}

}  // namespace

int main() {
  const std::vector<Tensor> all = make_tensors();
  std::vector<uint64_t> expected(all.size() * kSums);
  for (size_t t = 0; t < all.size(); ++t) all[t].expect(&expected[t * kSums]);
  const cuda::DigestMeasure as_it_is, long_units{64, 1}, units_of_three{3, 1};
  for (const Grid& grid : kGrids) {
    for (const cuda::DigestMeasure& measure : {as_it_is, long_units, units_of_three}) {
      check(all, expected, grid, measure);
    }
  }
  for (size_t t = 0; t < all.size(); ++t) {  // alone
    const auto own = expected.begin() + static_cast<int64_t>(t * kSums);
    check({all[t]}, {own, own + kSums}, kGrids[t % std::size(kGrids)]);
  }
  std::printf("no error in %zu tensors\n", all.size());
}
