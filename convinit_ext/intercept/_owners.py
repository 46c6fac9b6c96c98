"""Whose memory a tensor is: which parameter or buffer of a model, and which part of it.

Found by storage, so that `.data`, views and slices are found too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convinit_ext import keys
from convinit_ext._engine import _C
from convinit_ext.intercept._views import Named, Owned
from convinit_ext.model import walk
from convinit_ext.sharding import local_of


class Owners:
    """The parameters and buffers of a model by their storage. Read again when the model has changed.

    Args:
        model: any module. Lazy parameters are found once they have memory.
        seed: of the keys.

    Raises:
        ValueError: two parameters that share a canonical name.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._named: dict[str, Named] = {}
        self._num_users_of_one = _num_users_of_one()
        self._read()

    def owned(self, tensor: Tensor) -> Owned | None:
        """The tensor as a part of the model; None where it is none."""
        known = self._by_object.get(id(tensor))
        if known is not None and known.named.is_held():
            return known
        owned = self._find(tensor)
        if owned is None and self._has_changed(tensor):
            self._read()
            owned = self._find(tensor)
        return owned

    def _find(self, tensor: Tensor) -> Owned | None:
        memory = local_of(tensor)
        storage = _storage(memory)
        for named in self._by_storage.get(storage, ()):
            owner = local_of(named.tensor)
            if _storage(owner) == storage and named.is_held():  # else this memory is another's now
                owned = named.part(memory, owner)
                if owned is not None:
                    return owned
        return None

    def _read(self) -> None:
        """Names are given by the model's present state; counts of names that were there go on."""
        nodes = list(walk.modules(self._model))
        found = walk.parameters(nodes, lazy=True)
        found += [held for held in walk.buffers(nodes) if _is_float(held.tensor)]
        names = [keys.canonical_name(held.name) for held in found]
        words = [] if not names else list(torch.split(keys.of_names(self._seed, names), 1))
        self._by_storage: dict[int, list[Named]] = {}
        self._by_object: dict[int, Owned] = {}  # which holds the tensor, so that its id stays its own
        for held, name, row in zip(found, names, words, strict=True):
            self._add(held, name, row)
        self._modules = [node.module for node in nodes]
        self._last_members, self._last_storages = _C.members(self._modules), self._storages()
        self._ids = set(map(id, self._last_members))

    def _add(self, held: walk.NamedTensor, name: str, words: Tensor) -> None:
        tensor = held.tensor
        if not tensor.is_meta and self._find(tensor) is not None:  # tied: it has a name
            return
        path = held.path.split(".")
        named = self._named.setdefault(name, Named(name, self._model, words, tensor, path))
        named.tensor, named.path = tensor, path
        self._by_storage.setdefault(_storage(local_of(tensor)), []).append(named)
        self._by_object[id(tensor)] = Owned(named, (), None, is_dtensor=local_of(tensor) is not tensor)

    def _has_changed(self, tensor: Tensor) -> bool:
        """Whether a tensor that is not known may be the model's all the same. It is asked for every tensor
        that is not, so it has to be quick: only memory that others share can be that of another tensor.
        """
        if not _C.has_members(self._modules, self._last_members):
            return True
        is_apart = id(tensor) not in self._ids and not self._is_shared(local_of(tensor))
        return not is_apart and self._storages() != self._last_storages

    def _is_shared(self, tensor: Tensor) -> bool:
        """Whether other tensors see the same memory; True where PyTorch does not tell."""
        return _num_users is None or _num_users(_storage(tensor)) > self._num_users_of_one

    def _storages(self) -> list[int]:
        """Other numbers once a tensor has other memory."""
        return [
            _storage(tensor)
            for module in self._modules
            for held in (module._parameters, module._buffers)
            for tensor in held.values()
            if tensor is not None
        ]


def _is_float(buffer: Tensor) -> bool:
    return not is_lazy(buffer) and buffer.is_floating_point()


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


_num_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def _num_users_of_one() -> int:
    """A tensor's memory may have the Python object that stands for it as one more user."""
    if _num_users is None:
        return 0
    alone = torch.empty(1, device="cpu")
    return _num_users(_storage(alone))
