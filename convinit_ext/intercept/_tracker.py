"""Finds the parameter or buffer that a tensor is a part of: by storage, so that of `.data` and slices too.

For other tensors it finds what the running code was called for.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any
from weakref import finalize, ref

import torch
from torch import Tensor, nn
from torch._C import _has_storage
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from convinit_ext import keys
from convinit_ext._engine import _C, storage_of
from convinit_ext.intercept._views import ParameterView, TrackedParameter, is_recorded
from convinit_ext.sharding import is_dtensor, is_held_by_others, is_sharded, local_of, note_layers

_PART = re.compile(r"(^|\.)parametrizations\.|_(g|v|orig)$")  # names of what weights are made of
_MOST = 64  # operations that such a weight is computed by
_INSIDE = tuple(os.path.join(os.path.dirname(str(each.__file__)), "") for each in (keys, torch))
_CONV_RESET = _ConvNd.reset_parameters.__code__


class Tracker:
    """The parameters and buffers of a model, read again when it has changed; lazy ones once they have memory.

    Raises:
        ValueError: two parameters that share a canonical name; parameters that FSDP2 has gathered.
        RuntimeError: a parameter that is a part of another, but no slice of it.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._by_name: dict[str, TrackedParameter] = {}
        self.num_temporaries: Counter[str] = Counter()  # filled in each scope
        self._shown: tuple[object, int, StorageWeakRef] | None = None
        self._warned: set[str] = set()
        self._read()
        if any(isinstance(each, ParametrizationList) for each in self._modules):
            self._see_made_weights()

    def view(self, tensor: Tensor) -> ParameterView | None:
        """Return the tensor as a part of a parameter or buffer, if any; RuntimeError if it is no slice."""
        known = self._by_object.get(id(tensor))
        if known is not None and known.parameter.is_in_model():
            return known
        view = self._find(tensor)
        if view is None and self._has_changed(tensor):
            self._read()
            view = self._find(tensor)
        return view

    def check_not_lost(self, tensor: object) -> None:
        """Raise ValueError, or warn, of a constant that a parameter would not get.

        FSDP2 drops what is written to parameters that it has gathered. A slice of a DTensor along a dimension
        that is cut is a copy, as of the padding row that nn.Embedding's reset_parameters sets to zero.
        """
        if (
            not isinstance(tensor, Tensor)
            or tensor.is_meta
            or isinstance(tensor, FakeTensor)
            or is_lazy(tensor)
        ):
            return
        if isinstance(tensor, nn.Parameter):
            self.view(tensor)
        elif is_dtensor(tensor) and (base := tensor._base) is not None and is_dtensor(base):
            is_copy = storage_of(local_of(tensor)) != storage_of(local_of(base))
            view = self._find(base) if is_copy else None
            if view is not None and view.parameter.name not in self._warned:
                self._warned.add(view.parameter.name)
                warnings.warn(
                    f"a slice of {view.parameter.name!r} along a dimension that is cut is a copy: a constant "
                    "written there changes nothing of the parameter. Where it is a padding row, init_model_ "
                    "sets it to zero",
                    stacklevel=5,
                )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters and buffers that the model has now, by canonical names."""
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            yield keys.canonical_name(name), tensor

    def note_data(self, source: Tensor, shown: Tensor) -> None:
        """Remember the `.data` of a tensor that autograd has recorded; the last one."""
        if source.grad_fn is not None:
            self._note(source.grad_fn, shown)

    def _see_made_weights(self) -> None:
        """Remember the weight that parts make, which autograd may not record; the last one."""
        its = ref(self)

        def note(module: nn.Module, _: object, made: object) -> None:
            tracker = its()
            if tracker is None or not (isinstance(module, ParametrizationList) and isinstance(made, Tensor)):
                return
            name = tracker._names.get(id(module))
            if name is not None:
                tracker._note(f"{name}.original{'' if module.is_tensor else '1'}", made)

        finalize(self, register_module_forward_hook(note).remove)

    def _note(self, source: object, shown: Tensor) -> None:
        if _has_storage(shown):
            memory = StorageWeakRef(shown.untyped_storage())  # type: ignore[no-untyped-call]  # PyTorch's
            self._shown = source, storage_of(shown), memory

    def warn_if_in_vain(self, tensor: Tensor, recorded: object = None) -> None:
        """Warn, once for each, of a weight that parts make, or of its `.data`: the model does not see it."""
        source = recorded or self._noted(tensor)
        if source is None:
            return
        names = [source] if isinstance(source, str) else self._begins_with(source)
        part = next((name for name in names if _PART.search(name)), None)
        if part is not None and part not in self._warned and self._find(tensor) is None:
            self._warned.add(part)
            warnings.warn(
                f"a fill of a weight that {part!r} makes is in vain, here and in PyTorch, unless the layer "
                "is given it: the model computes it anew. Fill the original "
                "(layer.parametrizations.weight.original, weight_v or weight_orig; init_model_(model) does)",
                stacklevel=_level_outside(),
            )

    def _noted(self, tensor: Tensor) -> object:
        if self._shown is None or not _has_storage(tensor):
            return None
        source, storage, memory = self._shown
        is_gone = storage_of(tensor) != storage or memory.expired()  # type: ignore[no-untyped-call]  # PyTorch's
        return None if is_gone else source

    def _begins_with(self, node: object) -> list[str]:
        """Return the names of the parameters that autograd's record of a tensor begins with."""
        known = (self._by_object.get(id(leaf)) for leaf in _leaves(node))
        return [view.parameter.name for view in known if view is not None]

    def copied(self, tensor: Tensor) -> ParameterView | None:
        """Return the weight that PyTorch's reset_parameters of a convolution copies a tensor to, if any.

        PyTorch 2.13 fills a contiguous tensor in place of a weight in channels_last. RuntimeError says that
        the weight is parametrized, so that the values would be lost: autograd does not record it there.
        """
        frame = sys._getframe(1) if tensor.dim() > 2 and tensor.is_contiguous() else None
        while frame is not None and frame.f_code is not _CONV_RESET:
            frame = frame.f_back
        if frame is None:
            if not is_recorded(tensor):  # of which an error follows
                self.warn_if_in_vain(tensor)
            return None
        module = frame.f_locals["self"]
        if is_parametrized(module, "weight"):
            raise RuntimeError(
                f"reset_parameters cannot fill the weight of {self._names.get(id(module))!r}, which is "
                "computed from others: nothing else would see the values. Fill the original "
                "(layer.parametrizations.weight.original; init_model_(model) does)"
            )
        weight = module._parameters.get("weight")
        if weight is None or weight.shape != tensor.shape or is_sharded(weight):
            return None
        return self.view(weight)

    def scope(self) -> str | None:
        """Return the name of what the running code was called for, None where that is the model or unknown.

        It is the parameter, buffer or module that the innermost running function has as an argument; of
        several the one furthest inside.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            num_arguments = code.co_argcount + code.co_kwonlyargcount
            if num_arguments:
                values = frame.f_locals
                found = (self._names.get(id(values.get(each))) for each in code.co_varnames[:num_arguments])
                name = max(filter(None, found), key=lambda each: each.count("."), default=None)
                if name is not None:
                    return name
            frame = frame.f_back
        return None

    def _find(self, tensor: Tensor) -> ParameterView | None:
        memory = local_of(tensor)
        storage = storage_of(memory)
        for parameter in self._by_storage.get(storage, ()):
            whole = local_of(parameter.tensor)
            if storage_of(whole) == storage and parameter.is_in_model():  # else this memory is another's now
                view = parameter.part(memory, whole)
                if view is not None:
                    return view
        return None

    def _read(self) -> None:
        """Name the tensors by the model's present state. The counts of names that it had before go on."""
        from convinit_ext.model import check_modules, walk  # with all of plans: drop-in functions do without

        nodes = list(walk.modules(self._model))
        check_modules(nodes, None)
        note_layers(node.module for node in nodes)
        found = walk.parameters(nodes, lazy=True)
        for each in walk.buffers(nodes):
            if not is_lazy(each.tensor) and each.tensor.is_floating_point():
                found.append(each)
        found = [each for each in found if _has_storage(local_of(each.tensor))]  # PyTorch fills the others
        names = [keys.canonical_name(each.name) for each in found]
        words = torch.split(keys.of_names(self._seed, names), 1) if names else ()
        self._by_storage: dict[int, list[TrackedParameter]] = {}
        self._by_object: dict[int, ParameterView] = {}  # which holds the tensor, so that its id stays its own
        for each, name, row in zip(found, names, words, strict=True):
            tensor, path = each.tensor, each.path.split(".")
            if not tensor.is_meta and self._find(tensor) is not None:  # it is tied to one that has a name
                continue
            new = TrackedParameter(name, self._model, row, tensor, path)
            parameter = self._by_name.setdefault(name, new)
            parameter.tensor, parameter.path, parameter.runs = tensor, path, []
            self._by_storage.setdefault(storage_of(local_of(tensor)), []).append(parameter)
            self._by_object[id(tensor)] = ParameterView(parameter, None, None)
        self._modules = [node.module for node in nodes]
        names_of_modules = (keys.canonical_name(f"{node.canonical}.w".lstrip("."))[:-2] for node in nodes)
        self._names = dict(zip(map(id, self._modules), names_of_modules, strict=True))
        self._names |= {key: view.parameter.name for key, view in self._by_object.items()}
        self._members = _C.members(self._modules)
        self._member_ids = set(map(id, self._members))
        self._storages = self._present_storages()

    def _has_changed(self, tensor: Tensor) -> bool:
        """Return whether the model has changed so that a tensor that was not found may be its own.

        It is asked for every tensor of others, so it is quick: only shared memory can be another tensor's.
        """
        if id(tensor) in self._member_ids or not _C.has_members(self._modules, self._members):
            return True
        storage = storage_of(local_of(tensor))
        return is_held_by_others(storage) and self._present_storages() != self._storages

    def _present_storages(self) -> list[int]:
        return [storage_of(each) for each in self._members if isinstance(each, Tensor)]


def _leaves(last: Any) -> Iterator[Tensor]:
    """Yield the tensors that autograd's record begins with, of a short one."""
    nodes = [last]
    for node in nodes:
        if hasattr(node, "variable"):
            yield node.variable
        before = [each for each, _ in node.next_functions if each is not None and each not in nodes]
        nodes += before[: _MOST - len(nodes)]


def _level_outside() -> int:
    """Return the stacklevel of a warning for the code that called this package, or PyTorch."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    return level
