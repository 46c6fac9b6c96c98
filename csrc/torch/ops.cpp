// The op schemas, and the CPU's registration.
#include "torch/torch_abi.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "torch/reading.h"
#include "torch/tasks.h"

namespace convinit {
namespace {

void fill_cpu(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> kinds,
              std::vector<double> params, std::vector<int64_t> box_starts, std::vector<int64_t> box_strides) {
  for (const DeviceTasks& device :
       tasks_of({std::move(tensors), std::move(keys), std::move(kinds), std::move(params),
                 std::move(box_starts), std::move(box_strides)})) {
    device.tasks.run_on_cpu();
  }
}

void fill_one_cpu(Tensor tensor, Tensor key, int64_t kind, double p0, double p1, double p2, double p3) {
  tasks_of(tensor, key, kind, {p0, p1, p2, p3}).run_on_cpu();
}

void fill_part_cpu(Tensor tensor, Tensor key, int64_t kind, double p0, double p1, double p2, double p3,
                   int64_t start, std::vector<int64_t> strides) {
  tasks_of(tensor, key, kind, {p0, p1, p2, p3}, start, strides).run_on_cpu();
}

Tensor digest_cpu(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> box_starts,
                  std::vector<int64_t> box_strides) {
  return digest_on_cpu(tensors, keys, box_starts, box_strides);
}

Tensor compare_cpu(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> kinds,
                   std::vector<double> params, std::vector<int64_t> box_starts,
                   std::vector<int64_t> box_strides) {
  return compare_on_cpu({std::move(tensors), std::move(keys), std::move(kinds), std::move(params),
                         std::move(box_starts), std::move(box_strides)});
}

}  // namespace
}  // namespace convinit

STABLE_TORCH_LIBRARY(convinit_ext, m) {
  m.def(
      "fill_(Tensor(a!)[] tensors, Tensor keys, int[] kinds, float[] params, int[] box_starts, int[] "
      "box_strides) -> "
      "()");
  m.def("fill_one_(Tensor(a!) tensor, Tensor key, int kind, float p0, float p1, float p2, float p3) -> ()");
  m.def(
      "fill_part_(Tensor(a!) tensor, Tensor key, int kind, float p0, float p1, float p2, float p3, int "
      "start, "
      "int[] strides) -> ()");
  m.def("digest(Tensor[] tensors, Tensor keys, int[] box_starts, int[] box_strides) -> Tensor");
  m.def(
      "compare(Tensor[] tensors, Tensor keys, int[] kinds, float[] params, int[] box_starts, int[] "
      "box_strides) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(convinit_ext, CPU, m) {
  m.impl("fill_", TORCH_BOX(&convinit::fill_cpu));
  m.impl("fill_one_", TORCH_BOX(&convinit::fill_one_cpu));
  m.impl("fill_part_", TORCH_BOX(&convinit::fill_part_cpu));
  m.impl("digest", TORCH_BOX(&convinit::digest_cpu));
  m.impl("compare", TORCH_BOX(&convinit::compare_cpu));
}
