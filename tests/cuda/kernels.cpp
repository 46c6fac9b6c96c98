// The GPU's kernels against the CPU's engine, bit for bit: fills, comparisons and digests of every layout,
// dtype and distribution, alone and in lists. `make check-ptx` links it with nvcc's PTX, `make sanitize` with
// the kernels' bodies. An argument: how many tensors are made up.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/digest.h"
#include "core/dtype.h"
#include "cpu/engine.h"
#include "cuda/engine.h"
#include "cuda/task_list_host.h"
#include "gpu.h"
#include "tensors.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

const RunWorkers kHere = [](int64_t, const std::function<void()>& worker) { worker(); };
constexpr char kUntouched = 0x5a;
int64_t num_launches = 0, num_differences = 0;

// How a list comes to the device.
enum class Way { kParameter, kCopied, kByParameters };
constexpr Way kLongWays[] = {Way::kCopied, Way::kByParameters};

void report(const char* what, const Tensor& tensor) {
  if (++num_differences > 20) return;
  std::printf("%s differs: %s, start %" PRId64 ", %zu dimensions, shift %" PRId64 ", kind %d, dtype %d\n",
              what, tensor.layout.name, tensor.layout.start, tensor.layout.dims.size(), tensor.shift,
              static_cast<int>(tensor.distribution.kind), static_cast<int>(tensor.dtype));
}

void check(const char* error) {
  if (error == nullptr) return;
  std::printf("a launch failed: %s\n", error);
  std::exit(1);
}

// What the host packed is gone when the work is done.
template <class Packed>
void launch(const Packed& packed, int64_t room, cuda::Launch launcher, const cuda::Rows& rows, Way way) {
  std::vector<uint64_t> image(static_cast<size_t>(room) / sizeof(uint64_t));
  const int64_t num_bytes = cuda::write_image(packed, image.data());
  if (num_bytes > room) check("the image is larger than foretold");
  if (num_bytes > cuda::kParameterBytes && way == Way::kParameter) way = Way::kCopied;
  std::unique_ptr<gpu::Memory> on_device;
  if (way != Way::kParameter) on_device = std::make_unique<gpu::Memory>(static_cast<size_t>(num_bytes));
  void* device_image = on_device ? on_device->data() : nullptr;
  if (way == Way::kCopied) std::memcpy(device_image, image.data(), static_cast<size_t>(num_bytes));
  if (way == Way::kByParameters) check(cuda::upload_by_value(image.data(), num_bytes, device_image, nullptr));
  check(launcher({image.data(), num_bytes, device_image}, rows, nullptr));
  std::fill(image.begin(), image.end(), ~uint64_t{0});
  gpu::synchronize();
  ++num_launches;
}

class Held {
 public:
  explicit Held(const Tensor& tensor)
      : tensor_(tensor),
        on_device_(tensor.num_bytes(), tensor.shift_bytes()),
        wanted_(tensor.num_bytes(), kUntouched) {
    FillTask task = tensor.task(wanted_.data());
    fill(&task, 1, 1, kHere);
  }
  const Tensor& tensor() const { return tensor_; }
  FillTask task() const { return tensor_.task(on_device_.data()); }
  void clear() { std::memset(on_device_.data(), kUntouched, on_device_.size()); }
  void set() { std::memcpy(on_device_.data(), wanted_.data(), wanted_.size()); }
  void check_values() const {
    if (std::memcmp(on_device_.data(), wanted_.data(), wanted_.size()) != 0) report("a fill", tensor_);
  }
  // A bit of the elements `first`, `first + step`, ... in memory.
  void spoil(size_t first, size_t step) {
    for (size_t i = first; i < wanted_.size(); i += step) on_device_.data()[i] ^= 0x10;
  }

 private:
  Tensor tensor_;
  gpu::Memory on_device_;
  std::vector<char> wanted_;
};

using List = std::vector<Held*>;

std::vector<FillTask> tasks_of(const List& list) {
  std::vector<FillTask> tasks;
  for (const Held* held : list) tasks.push_back(held->task());
  return tasks;
}

void check_fills(const List& list, Way way, const cuda::Measure& measure = {}) {
  for (Held* held : list) held->clear();
  const std::vector<FillTask> tasks = tasks_of(list);
  const auto count = static_cast<int64_t>(tasks.size());
  launch(cuda::pack_fills(tasks.data(), nullptr, count, measure), cuda::image_bytes(tasks.data(), count),
         cuda::launch_fill, {}, way);
  for (const Held* held : list) held->check_values();
}

// Rows from the last to the first, and one of no tensor.
std::vector<int64_t> rows_for(size_t count) {
  std::vector<int64_t> rows;
  for (size_t i = 0; i < count; ++i) rows.push_back(static_cast<int64_t>(count - i));
  return rows;
}

// Of memory as it is.
void check_comparisons(const List& list, Way way, const cuda::Measure& measure = {}) {
  const std::vector<FillTask> tasks = tasks_of(list);
  const auto count = static_cast<int64_t>(tasks.size());
  std::vector<Difference> wanted(tasks.size());
  compare(tasks.data(), count, 1, kHere, wanted.data());
  const std::vector<int64_t> rows = rows_for(tasks.size());
  const gpu::Memory found((tasks.size() + 1) * sizeof(Difference));
  launch(cuda::pack_fills(tasks.data(), rows.data(), count, measure), cuda::image_bytes(tasks.data(), count),
         cuda::launch_compare, {reinterpret_cast<int64_t*>(found.data()), count + 1}, way);
  const auto* differences = reinterpret_cast<const Difference*>(found.data());
  if (differences[0].count != 0 || differences[0].first != -1) report("no tensor's row", list[0]->tensor());
  for (size_t t = 0; t < tasks.size(); ++t) {
    const Difference& own = differences[rows[t]];
    const int64_t first = wanted[t].count == 0 ? -1 : wanted[t].first;
    if (own.count != wanted[t].count || own.first != first) report("a comparison", list[t]->tensor());
  }
}

// Of memory as it is, as elements of so many bytes.
void check_digests(const List& list, Way way, const cuda::DigestMeasure& measure = {}) {
  std::vector<DigestTask> tasks;
  for (const Held* held : list) tasks.push_back(held->tensor().digest_task(held->task().data));
  const auto count = static_cast<int64_t>(tasks.size());
  std::vector<uint64_t> wanted(tasks.size() * kSums);
  digest(tasks.data(), count, 1, kHere, wanted.data());
  const std::vector<int64_t> rows = rows_for(tasks.size());
  const gpu::Memory found((tasks.size() + 1) * kSums * sizeof(uint64_t));
  std::memset(found.data(), 1, found.size());
  launch(cuda::pack_digests(tasks.data(), rows.data(), count, measure),
         cuda::image_bytes(tasks.data(), count), cuda::launch_digest,
         {reinterpret_cast<int64_t*>(found.data()), count + 1}, way);
  const auto* sums = reinterpret_cast<const uint64_t*>(found.data());
  for (size_t t = 0; t < tasks.size(); ++t) {
    if (std::memcmp(sums + rows[t] * kSums, &wanted[t * kSums], kSums * sizeof(uint64_t)) != 0)
      report("a digest", list[t]->tensor());
  }
}

// Each alone, and all in lists of many, on several grids.
void check_all(const char* name, const std::vector<Tensor>& tensors) {
  std::vector<Held> held;
  for (const Tensor& tensor : tensors) held.emplace_back(tensor);
  List all;
  for (Held& each : held) all.push_back(&each);
  for (size_t i = 0; i < all.size(); ++i) {
    const List one(1, all[i]);
    gpu::set_resident_blocks(kGrids[i % std::size(kGrids)]);
    check_fills(one, Way::kParameter);
    check_comparisons(one, Way::kParameter);
    if (i % 2 == 0) check_digests(one, Way::kParameter);
    all[i]->spoil(i % 7, i % 90 + 1);
    check_comparisons(one, i % 5 == 0 ? Way::kByParameters : Way::kParameter);
  }
  const cuda::Measure measures[] = {{}, {16, 1, 1 << 21}, {1, 4096, 300}};
  const cuda::DigestMeasure digest_measures[] = {{}, {64, 1}, {3, 1}};
  for (int turn = 0; turn < 4; ++turn) {
    gpu::set_resident_blocks(kGrids[turn % std::size(kGrids)]);
    check_fills(all, kLongWays[turn % 2], measures[turn % 3]);
    check_digests(all, kLongWays[turn % 2], digest_measures[turn % 3]);
    check_comparisons(all, kLongWays[turn % 2], measures[turn % 3]);
    for (size_t i = 0; i < all.size(); i += 3) all[i]->spoil(i % 7, i % 90 + 1);
    check_comparisons(all, kLongWays[turn % 2], measures[turn % 3]);
  }
  std::printf("%s: %zu tensors; so far %" PRId64 " launches, %" PRId64 " differences\n", name, tensors.size(),
              num_launches, num_differences);
}

}  // namespace

int main(int count, char** arguments) {
  check_all("every layout and dtype, distributions in turn", every_layout());
  check_all("every distribution and dtype", every_distribution());
  check_all("made up", made_up(count > 1 ? std::atoi(arguments[1]) : 200));
  return num_differences == 0 ? 0 : 1;
}
