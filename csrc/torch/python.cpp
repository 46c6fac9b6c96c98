// The pybind11 module `_C`: build facts, the instruction set in use, and raw words for known-answer tests.
// Loading it also registers the ops of ops.cpp, which are written against torch's stable ABI and need no
// pybind11.
#include <pybind11/critical_section.h>
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

// What the quick functions look up, made when the module is loaded.
struct Known {
  PyObject *tensor, *parameter;  // the types
  PyObject *cdata, *grad_fn, *is_neg, *is_nested, *isdisjoint, *version;
} known;

void know() {
  known.tensor = py::object(py::module_::import("torch").attr("Tensor")).release().ptr();
  known.parameter = py::object(py::module_::import("torch.nn").attr("Parameter")).release().ptr();
  known.cdata = PyUnicode_InternFromString("_cdata");
  known.grad_fn = PyUnicode_InternFromString("grad_fn");
  known.is_neg = PyUnicode_InternFromString("is_neg");
  known.is_nested = PyUnicode_InternFromString("is_nested");
  known.isdisjoint = PyUnicode_InternFromString("isdisjoint");
  known.version = PyUnicode_InternFromString("_version");
}

// Whether what a call gave, which is released, is True, False or None, as expected.
bool is(PyObject* given, PyObject* expected) {
  if (given == nullptr) throw py::error_already_set();
  Py_DECREF(given);
  return given == expected;
}

// What Tensor._cdata says: where the tensor is.
void* tensor_at(PyObject* tensor) {
  const auto pointer = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, known.cdata));
  void* address = pointer ? PyLong_AsVoidPtr(pointer.ptr()) : nullptr;
  if (PyErr_Occurred()) throw py::error_already_set();
  return address;
}

bool has_any_of(PyObject* names, PyObject* tensor) {
  const auto attributes = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(tensor, nullptr));
  if (!attributes) throw py::error_already_set();
  return PyDict_GET_SIZE(attributes.ptr()) != 0 &&
         is(PyObject_CallMethodOneArg(names, known.isdisjoint, attributes.ptr()), Py_False);
}

// An attribute that may raise.
py::object attribute(PyObject* tensor, PyObject* name) {
  PyObject* found = PyObject_GetAttr(tensor, name);
  if (found == nullptr) PyErr_Clear();
  return py::reinterpret_steal<py::object>(found);
}

// Of a view that chunk made it cannot be told once another has changed.
bool is_recorded(PyObject* tensor) { return attribute(tensor, known.grad_fn).ptr() != Py_None; }

// Inference tensors have no version; asking is_inference() takes three times as long.
bool has_version(PyObject* tensor) { return static_cast<bool>(attribute(tensor, known.version)); }

// Plain C functions take half as long as pybind11's. These two are part of every quick fill.
template <class Function>
PyObject* or_error(Function function) {
  try {
    return function();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

std::vector<int64_t> numbers_of(PyObject* tuple) {
  convinit::check(PyTuple_Check(tuple), "accepted is a tuple of integers");
  std::vector<int64_t> numbers;
  for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(tuple); ++at) {
    numbers.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, at)));
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return numbers;
}

// Of a tensor, whether its dtype and its strides may be any, and the attributes that mark a part of another:
// None if it may be one, or a view that autograd has recorded.
PyObject* is_plain(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return or_error([&] {
    convinit::check(count == 4, "is_plain takes a tensor, two bools, and a set or None");
    PyObject* tensor = given[0];
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
    return PyBool_FromLong((type == known.tensor || type == known.parameter) &&
                           (given[3] == Py_None || !(has_any_of(given[3], tensor) || is_recorded(tensor))) &&
                           is(PyObject_GetAttr(tensor, known.is_nested), Py_False) &&
                           is(PyObject_CallMethodNoArgs(tensor, known.is_neg), Py_False) &&
                           has_version(tensor) &&
                           convinit::is_dense(tensor_at(tensor), given[1] == Py_True, given[2] == Py_True));
  });
}

// Of a tensor, a key's words or the address where they are, kind, params, start, and index strides or None.
PyObject* fill_small(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return or_error([&]() -> PyObject* {
    convinit::check(count == 6 && PyTuple_Check(given[3]) && PyTuple_GET_SIZE(given[3]) == 4,
                    "fill_small takes a tensor, words, kind, four params, start and index strides");
    convinit::Key key;
    if (PyTuple_Check(given[1])) {
      const std::vector<int64_t> words = numbers_of(given[1]);
      convinit::check(words.size() == 2, "fill_small takes two words");
      key = {static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1])};
    } else {
      const auto* words = static_cast<const uint64_t*>(PyLong_AsVoidPtr(given[1]));
      if (PyErr_Occurred()) throw py::error_already_set();
      key = {words[0], words[1]};
    }
    double params[convinit::kParams];
    for (size_t at = 0; at < convinit::kParams; ++at) {
      params[at] = PyFloat_AsDouble(PyTuple_GET_ITEM(given[3], at));
    }
    const int64_t kind = PyLong_AsLongLong(given[2]), start = PyLong_AsLongLong(given[4]);
    if (PyErr_Occurred()) throw py::error_already_set();
    if (given[5] == Py_None) {
      convinit::fill_small(tensor_at(given[0]), key, kind, params, start, nullptr);
    } else {
      const std::vector<int64_t> strides = numbers_of(given[5]);
      convinit::fill_small(tensor_at(given[0]), key, kind, params, start, &strides);
    }
    Py_RETURN_NONE;
  });
}

template <class Function>
PyMethodDef quick(const char* name, Function function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
}

PyMethodDef kIsPlain = quick("is_plain", is_plain, "Part of _engine.is_plain.");
PyMethodDef kFillSmall =
    quick("fill_small", fill_small, "A small tensor on the CPU; use _engine.fill_small_.");

// What the modules of a model hold, compared in a fraction of the time that Python takes.

// Calls visit(PyObject*) for the values of a mapping until it returns false; true if it never does.
template <class Visit>
bool visit_values(const py::object& mapping, Visit visit) {
  if (PyDict_Check(mapping.ptr())) {
    const py::scoped_critical_section no_other_thread_changes_it(mapping);
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
  PyObject* found = PyObject_GetItem(attributes, name);
  if (found == nullptr) {
    PyErr_Clear();
    found = PyObject_GetAttr(module, name);
  }
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
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

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
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
  know();
  for (PyMethodDef* method : {&kIsPlain, &kFillSmall}) {
    m.add_object(method->ml_name, py::reinterpret_steal<py::object>(PyCFunction_New(method, nullptr)));
  }
  m.def("members", &members, "What modules hold; use convinit_ext.intercept.");
  m.def("has_members", &has_members, "Whether they hold just that.");
  m.def("num_cuda_launches", &num_cuda_launches,
        "Kernels launched on GPUs so far, for tests and benchmarks.");
  m.def("philox", &philox, py::arg("counter"), py::arg("key"), "Philox4x32-10: four words.");
}
