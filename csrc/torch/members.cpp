// See members.h.
#include "torch/members.h"

namespace convinit {
namespace {

namespace py = pybind11;

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

}  // namespace

py::list members(const py::list& modules) {
  py::list found;
  visit_members(modules, [&](PyObject* member) {
    found.append(py::handle(member));
    return true;
  });
  return found;
}

bool has_members(const py::list& modules, const py::list& expected) {
  size_t next = 0;
  const bool agree = visit_members(modules, [&](PyObject* member) {
    return next < expected.size() && PyList_GET_ITEM(expected.ptr(), next++) == member;
  });
  return agree && next == expected.size();
}

}  // namespace convinit
