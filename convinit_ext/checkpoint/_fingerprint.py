"""fingerprint: one number for all the values of a model, the same for any sharding, device and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convinit_ext._engine import (
    Box,
    Sums,
    check_not_in_fake_mode,
    check_tensor,
    digests,
    is_plain,
    naming,
    uncompiled,
)
from convinit_ext.checkpoint._safetensors import Weights, open_weights
from convinit_ext.model import walk
from convinit_ext.sharding import (
    Ranks,
    is_flat_parameter,
    is_sharded,
    local_of,
    logical_shape,
    note_layers,
    parts,
    tied_places,
)

Fingerprinted: TypeAlias = Tensor | nn.Module | Mapping[str, Tensor] | str | PathLike[str]


@uncompiled
def fingerprint(target: Fingerprinted, name: str = "") -> str:
    """128 bits that depend on the names, shapes, dtypes and every bit of every value, and on nothing else.

    The same for any sharding, device, memory format and order of the parameters. A model counts what is in
    its state_dict(), tied tensors once under their first name; so a model, its state dict and the file it is
    saved to have one fingerprint.

    Where DTensors are sharded, every rank of their mesh must call it: their sums are added up in one
    all-reduce of 128 bytes. Otherwise nothing communicates.

    Args:
        target: a tensor of any shape; a module; a dict of tensors by name; the path of a .safetensors file,
            of an index of several (.safetensors.index.json), or of a folder that holds either.
        name: of the tensor, if its name is to count; only for a tensor.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: tensors on the meta device, which have no values; two of one name; a file that is not
            what it should be (WeightsError).
        UnsupportedTensorError: a tensor that is not dense, or on a device other than CPU and CUDA.
        RuntimeError: another rank cannot read what it holds, or holds nothing; memory that is not what the
            placements of a DTensor say.
        TypeError: something else; a value of a dict that is not a tensor, a name that is not a string.

    Source: docs/fingerprint.md.

    >>> fingerprint(torch.zeros(2, 3))
    'f4d8bc4e1f56784d81520f4c985e5c7d'
    >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))
    False
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    if isinstance(target, Tensor):
        return _of_named(name, target)
    if name:
        raise ValueError("name= is for one tensor: a model, a dict or a file has names of its own")
    found = _Readable(target)
    return digests.of_all(found.heads, found.ranks().total(found.sums))


@uncompiled
def fingerprints(target: nn.Module | Mapping[str, Tensor] | str | PathLike[str]) -> dict[str, str]:
    """The fingerprint of every tensor of a model, a dict or a file, by canonical name.

    Each is `fingerprint(tensor, name)`. The arguments and errors are those of fingerprint; of sharded models
    one all-reduce adds up the sums of all tensors, 64 bytes each.

    >>> model = nn.Linear(2, 2)
    >>> fingerprints(model)["bias"] == fingerprint(model.bias, "bias")
    True
    """
    found = _Readable(target)
    rows = found.ranks().each(found.sums)
    each = zip(found.tensors, found.heads, rows, strict=True)
    return {name: digests.of_one(head, row) for name, head, row in each}


def _of_named(name: str, tensor: Tensor) -> str:
    tensor = _checked(name, tensor)
    tensors = {name: tensor}
    heads = _headers(tensors)
    return digests.of_one(heads[0], Ranks([name], [tensor]).total(lambda: _sums(heads, tensors)))


class _Readable:
    """The tensors of a model, a dict or a file that can be read, by canonical name, each once."""

    def __init__(self, target: object) -> None:
        self._weights: Weights | None = None
        given = self._given(target)
        self.tensors: dict[str, Tensor] = {}
        self._distinct = walk.Distinct(detached=not isinstance(target, nn.Module))
        self._error: Exception | None = None  # for later: other ranks may wait for this one
        for key, tensor in given.items():
            try:
                self._add(key, tensor)
            except (RuntimeError, TypeError, ValueError) as error:
                self._error = self._error or error
                if isinstance(tensor, Tensor) and is_sharded(tensor):  # others wait for its sums
                    self.tensors.setdefault(str(key), tensor)
        self.heads = _headers(self.tensors)

    def _given(self, target: object) -> Mapping[str, Tensor]:
        if isinstance(target, nn.Module):
            note_layers(target.modules())
            return _once(target, walk.with_state(target).state_dict(keep_vars=True))
        if isinstance(target, Mapping):
            return target
        if not isinstance(target, str | PathLike):
            raise TypeError(
                f"cannot take a fingerprint of a {type(target).__name__}; accepted are a tensor, a module, a "
                "dict of tensors by name, and the path of a safetensors file, index or folder"
            )
        check_not_in_fake_mode("take a fingerprint")
        self._weights = open_weights(target)
        return self._weights.tensors

    def _add(self, key: object, tensor: object) -> None:
        if not isinstance(key, str):
            raise TypeError(f"the names of a dict of tensors are strings, and {key!r} is not")
        if walk.is_extra_state(key):
            return
        name = walk.canonical(key)
        checked = _checked(key, tensor)
        if not self._distinct.is_new(checked):
            return
        if name in self.tensors:
            raise ValueError(
                f"two tensors are named {name!r} once wrappers are removed; {key!r} is one of them"
            )
        self.tensors[name] = checked

    def ranks(self) -> Ranks:
        return Ranks(list(self.tensors), list(self.tensors.values()))

    def sums(self) -> Sums:
        """Raises what is wrong with a tensor that cannot be read."""
        if self._error is not None:
            raise self._error
        if self._weights is not None:
            self._weights.check_sizes()
        return _sums(self.heads, self.tensors)


def _once(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out second names of what FullyShardedDataParallel has tied, and gathers once for each."""
    ties = tied_places(model.modules())
    paths = {id(node.module): node.path for node in walk.modules(model)} if ties else {}
    for places in ties:
        names = {walk.canonical(walk.join(paths[id(module)], leaf)) for module, leaf in places}
        keys = [key for key in state if walk.canonical(key) in names]
        state = {key: tensor for key, tensor in state.items() if key not in keys[1:]}
    return state


def _checked(name: str, tensor: object) -> Tensor:
    """Return a tensor with values that can be read. Of a sharded one that is found out later."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name!r} must be a tensor, not {type(tensor).__name__}")
    if is_flat_parameter(tensor):
        raise ValueError(
            f"{_what(name)} is the flat parameter of a FullyShardedDataParallel, a range of several; "
            "accepted is the model"
        )
    if not is_plain(tensor):
        if is_lazy(tensor):
            raise ValueError(f"{_what(name)} has no shape yet; run its lazy module on an input first")
        if not is_sharded(tensor):
            with naming(_what(name)):
                check_tensor(tensor, "digest")
    return tensor


def _what(name: str) -> str:
    return f"tensor {name!r}" if name else "the tensor"


def _headers(tensors: Mapping[str, Tensor]) -> list[bytes]:
    return [digests.header(name, tensor.dtype, logical_shape(tensor)) for name, tensor in tensors.items()]


def _sums(heads: Sequence[bytes], tensors: Mapping[str, Tensor]) -> Sums:
    """Of what this process holds: (n, 4)."""
    rows: list[int] = []
    pieces: list[tuple[Tensor, Box | None]] = []
    for row, (name, tensor) in enumerate(tensors.items()):
        pieces += _pieces(name, tensor)
        rows += [row] * (len(pieces) - len(rows))
    found = digests.no_sums(len(tensors))
    with torch.no_grad():
        given = [_as_stored(piece) for piece, _ in pieces]
        part = digests.sums_of([heads[row] for row in rows], given, [box for _, box in pieces])
    np.add.at(found, rows, part)
    return found


def _pieces(name: str, tensor: Tensor) -> Sequence[tuple[Tensor, Box | None]]:
    if not is_sharded(tensor):
        return [(tensor, None)]
    with naming(_what(name)):
        shape = logical_shape(tensor)
        found = [(part.tensor, part.box(shape)) for part in parts(tensor)]
        check_tensor(local_of(tensor), "digest")
    return found


def _as_stored(tensor: Tensor) -> Tensor:
    """The memory of a conjugate or negative view is not what it says."""
    return tensor.detach().resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor
