// What the launches share, csrc/cuda/launch.inl and kernel.inl, over a CUDA runtime that only pretends: how
// many blocks there are, what remains of an error, what travels how. Run by `make check-ptx`.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/prepare.h"
#include "cuda/engine.h"
#include "cuda/task_list_host.h"
#include "gpu.h"
#include "runtime.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("%s\n", what);
  std::exit(1);
}

constexpr int64_t kUnit = 256 * 4;  // elements
const gpu::Memory memory(100 * kUnit * sizeof(float));
const gpu::Memory found(2 * sizeof(int64_t));
const cuda::Rows kRows{reinterpret_cast<int64_t*>(found.data()), 1};

// A fill of so many units; where a list of several is wished, of as many tensors.
const char* launch(cuda::Launch launcher, int64_t num_units, int64_t num_tasks = 1,
                   void* on_device = nullptr) {
  const Dim dim{num_units * kUnit / num_tasks, 1, 1};
  const FillTask task{memory.data(), 0, &dim, 1, DType::kFloat32, {1, 2}, prepare_constant(1)};
  const std::vector<FillTask> tasks(static_cast<size_t>(num_tasks), task);
  std::vector<uint64_t> image(static_cast<size_t>(cuda::image_bytes(tasks.data(), num_tasks)) / 8);
  const std::vector<int64_t> rows(tasks.size());
  const int64_t num_bytes = cuda::pack(tasks.data(), rows.data(), num_tasks, image.data());
  return launcher({image.data(), num_bytes, on_device}, kRows, nullptr);
}

uint32_t grid_for(int64_t num_units, cuda::Launch launcher = cuda::launch_fill) {
  check(launch(launcher, num_units) == nullptr, "no launch");
  return runtime.blocks;
}

void test_grids() {
  runtime.device = 0;
  check(grid_for(5) == 5, "a block for each unit, where there are few");
  check(grid_for(100) == 12, "no more blocks than run at once");
  check(runtime.num_asked == 1, "CUDA is asked once for a device");
  runtime.device = 70;
  runtime.processors = 5;
  check(grid_for(100) == 20 && grid_for(100) == 20, "a device of a high number has its own grid");
  check(runtime.num_asked == 3, "it is asked for every time");
  runtime.device = 0;
  check(grid_for(100, cuda::launch_compare) == 20, "another kernel has its own");
  check(grid_for(100) == 12, "which changes nothing");
  check(cuda::num_launches() == runtime.num_launches, "launches are counted");
}

void test_errors_are_told_and_forgotten() {
  for (const char* call : {"device", "attribute", "occupancy", "launch", "memset"}) {
    runtime.failing = call;
    runtime.device = 1;  // nothing is known of it
    const int64_t launches = cuda::num_launches();
    const char* said = launch(cuda::launch_compare, 5);
    check(said != nullptr && std::strcmp(said, "an error") == 0, call);
    check(runtime.kept == 0, "an error was left for the next who asks");
    check(std::string(call) == "launch" || cuda::num_launches() == launches, "launched all the same");
  }
  runtime.failing = "image";
  const char* said = launch(cuda::launch_fill, 5);
  check(said != nullptr && std::strstr(said, "no code for this GPU") != nullptr,
        "a GPU that is not built for");
  runtime.failing = "";
  check(grid_for(5) == 5, "an error is not remembered");
}

void test_parameters() {
  const int64_t fits =
      (cuda::kParameterBytes - int64_t{sizeof(cuda::Header)}) / int64_t{sizeof(cuda::DeviceFill) + 8};
  check(launch(cuda::launch_fill, 100, fits) == nullptr, "what fits is taken");
  const char* said = launch(cuda::launch_fill, 100, fits + 1);
  check(said != nullptr && std::strstr(said, "too large") != nullptr, "what does not is not");
}

void test_capture() {
  check(!cuda::is_capturing(nullptr), "nothing is captured");
  runtime.is_capturing = true;
  check(cuda::is_capturing(nullptr), "a capture is seen");
  runtime.failing = "capturing";
  check(!cuda::is_capturing(nullptr) && runtime.kept == 0, "an error is none, and forgotten");
}

}  // namespace

int main() {
  test_grids();
  test_errors_are_told_and_forgotten();
  test_parameters();
  test_capture();
  std::printf("the launcher: no error\n");
}
