// The pybind11 module `_C`: build facts, the instruction set in use, and raw words for known-answer tests.
// Loading it also registers the ops of ops.cpp, which are written against torch's stable ABI and need no
// pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/philox.h"
#include "cpu/engine.h"
#include "cpu/float_environment.h"
#include "cpu/isa.h"
#include "cuda/engine.h"
#include "torch/arguments.h"

#ifndef CONVINIT_BUILT_WITH_TORCH
#define CONVINIT_BUILT_WITH_TORCH "unknown"
#endif
#ifndef CONVINIT_CUDA  // else setup.py's: the toolkit's version and the architectures
#define CONVINIT_CUDA "not built"
#define CONVINIT_NO_CUDA 1
#endif

namespace {

namespace py = pybind11;
using convinit::scalar::Words;

std::array<uint32_t, 4> philox(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
  const auto join = [](uint32_t low, uint32_t high) { return low | (static_cast<uint64_t>(high) << 32); };
  const convinit::Key layer_key{join(key[0], key[1]), join(counter[2], counter[3])};
  const Words words = convinit::scalar::philox(convinit::scalar::make_round_keys(layer_key, counter[1]),
                                               convinit::scalar::counters(counter[0]));
  return {static_cast<uint32_t>(words.w0), static_cast<uint32_t>(words.w1), static_cast<uint32_t>(words.w2),
          static_cast<uint32_t>(words.w3)};
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const convinit::FunctionTable* table : convinit::available_tables()) names.emplace_back(table->isa);
  return names;
}

void fill_on_this_thread(uintptr_t data, int dtype, uintptr_t key, int64_t kind,
                         const double (&params)[convinit::kParams], int64_t start, const convinit::Dim* dims,
                         size_t num_dims) {
  const convinit::DefaultFloatEnvironment environment;
  const auto* words = reinterpret_cast<const uint64_t*>(key);
  const auto type = static_cast<convinit::DType>(dtype);
  const convinit::FillTask task{reinterpret_cast<void*>(data),
                                start,
                                dims,
                                static_cast<int32_t>(num_dims),
                                type,
                                {words[0], words[1]},
                                convinit::distribution_of(kind, params, type)};
  convinit::fill(&task, 1, 1, [](int64_t, const std::function<void()>& worker) { worker(); });
}

// A small contiguous tensor, from element `start` of a logical one, without PyTorch's dispatcher, which takes
// several times as long as the fill. The caller (convinit_ext/_engine/_ops.py) has made sure that nothing
// would have come between.
void fill_small(uintptr_t data, int64_t numel, int dtype, uintptr_t key, int64_t kind, double p0, double p1,
                double p2, double p3, int64_t start) {
  const convinit::Dim dim{numel, 1, 1};
  fill_on_this_thread(data, dtype, key, kind, {p0, p1, p2, p3}, start, &dim, 1);
}

int64_t number_at(const py::tuple& numbers, size_t place) {
  const int64_t number = PyLong_AsLongLong(PyTuple_GET_ITEM(numbers.ptr(), place));
  if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

// The same for a part of a logical tensor, of any strides. Tuples are read here, in less time than by
// pybind11.
void fill_small_part(uintptr_t data, int dtype, uintptr_t key, int64_t kind, double p0, double p1, double p2,
                     double p3, const py::tuple& sizes, const py::tuple& strides, int64_t start,
                     const py::tuple& index_strides) {
  convinit::check(strides.size() == sizes.size() && index_strides.size() == sizes.size(),
                  "fill_small_part: two strides for each of ", sizes.size(), " dimensions");
  std::vector<convinit::Dim> dims;
  dims.reserve(sizes.size());
  for (size_t d = 0; d < sizes.size(); ++d) {
    const int64_t size = number_at(sizes, d);
    if (size != 1) dims.push_back({size, number_at(strides, d), number_at(index_strides, d)});
  }
  dims = convinit::merged(std::move(dims));
  convinit::check_no_overlap(dims);
  fill_on_this_thread(data, dtype, key, kind, {p0, p1, p2, p3}, start, dims.data(), dims.size());
}

// A plain C function, as pybind11's take twice as long, and every fill asks this.
PyObject* in_memory(PyObject*, PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_cdata");
  const auto pointer = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, name));
  if (!pointer) return nullptr;
  try {
    return PyBool_FromLong(convinit::in_memory(PyLong_AsVoidPtr(pointer.ptr())));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyMethodDef kInMemory{"in_memory", in_memory, METH_O,
                      "Whether a tensor has elements, and memory for all of them."};

// What the modules of a model hold, compared in a fraction of the time that Python takes.

// Calls visit(PyObject*) for the values of a mapping until it returns false; true if it never does.
template <class Visit>
bool visit_values(const py::object& mapping, Visit visit) {
  if (PyDict_Check(mapping.ptr())) {
    PyObject* value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(mapping.ptr(), &at, nullptr, &value);)
      if (!visit(value)) return false;
    return true;
  }
  for (const py::handle value : mapping.attr("values")())  // a ScriptModule's
    if (!visit(value.ptr())) return false;
  return true;
}

// The module's own attribute, without the search through its classes where it is in the module's __dict__.
py::object own_attribute(PyObject* module, PyObject* attributes, PyObject* name) {
  PyObject* found = PyDict_GetItemWithError(attributes, name);
  py::object attribute = found != nullptr ? py::reinterpret_borrow<py::object>(found)
                                          : py::reinterpret_steal<py::object>(PyObject_GetAttr(module, name));
  if (!attribute) throw py::error_already_set();
  return attribute;
}

template <class Visit>
bool visit_members(const py::list& modules, Visit visit) {
  static PyObject* const names[] = {PyUnicode_InternFromString("_parameters"),
                                    PyUnicode_InternFromString("_buffers"),
                                    PyUnicode_InternFromString("_modules")};
  for (const py::handle module : modules) {
    const auto attributes = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module.ptr(), nullptr));
    if (!attributes) throw py::error_already_set();
    for (PyObject* name : names)
      if (!visit_values(own_attribute(module.ptr(), attributes.ptr(), name), visit)) return false;
  }
  return true;
}

// The parameters, buffers and children of each module, None among them, one module after the other.
py::list members(const py::list& modules) {
  py::list found;
  visit_members(modules, [&](PyObject* member) {
    found.append(py::handle(member));
    return true;
  });
  return found;
}

// Whether `members` would be these very objects.
bool has_members(const py::list& modules, const py::list& expected) {
  size_t next = 0;
  const bool agree = visit_members(modules, [&](PyObject* member) {
    return next < expected.size() && PyList_GET_ITEM(expected.ptr(), next++) == member;
  });
  return agree && next == expected.size();
}

int64_t num_cuda_launches() {
#if defined(CONVINIT_NO_CUDA)
  return 0;
#else
  return convinit::cuda::num_launches();
#endif
}

std::map<std::string, std::string> build_info() {
  return {
#if defined(__VERSION__)
      {"compiler", __VERSION__},
#endif
      {"cxx_standard", std::to_string(__cplusplus)},
      {"torch", CONVINIT_BUILT_WITH_TORCH},
      {"cuda", CONVINIT_CUDA},
  };
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about this build of convinit_ext; the ops themselves are torch.ops.convinit_ext.";
  m.def("build_info", &build_info, "Compiler, C++ standard, torch built against, CUDA.");
  m.def(
      "isa", [] { return std::string(convinit::current_table().isa); },
      "Instruction set that the next fill uses.");
  m.def(
      "last_isa", [] { return std::string(convinit::last_isa()); },
      "Instruction set that the latest fill used.");
  m.def("available_isas", &available_isas, "Instruction sets this machine can run, slowest first.");
  m.def("force_isa", &convinit::force_isa, py::arg("name"), "Use this instruction set from now on.");
  m.def("fill_small", &fill_small, "A contiguous tensor by its address; use _engine.fill_small_.");
  m.def("fill_small_part", &fill_small_part, "Use _engine.fill_small_part_.");
  m.add_object("in_memory", py::reinterpret_steal<py::object>(PyCFunction_New(&kInMemory, nullptr)));
  m.def("members", &members, "What modules hold; use convinit_ext.intercept.");
  m.def("has_members", &has_members, "Whether they hold just that.");
  m.def("num_cuda_launches", &num_cuda_launches,
        "Kernels launched on GPUs so far, for tests and benchmarks.");
  m.def("philox", &philox, py::arg("counter"), py::arg("key"), "Philox4x32-10: four words.");
}
