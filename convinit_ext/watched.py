"""Whether a model still is what it was: the same tensors in the same places, and not written since.

No value is read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from convinit_ext.boxes import local_of
from convinit_ext.walk import Held, has_memory

# What changes with tensors' values: how often each was written, and where its memory is.
_Facts: TypeAlias = tuple[list[int | None], list[object]]


class Moment(NamedTuple):
    """A model at one time.

    Args:
        watched: the model's tensors.
        facts: of each of them.
    """

    watched: Watched
    facts: _Facts

    def model(self) -> nn.Module:
        """The model, if it is as it was then.

        Writes through `.data`, and of inference tensors, leave no trace, and are not seen.

        Raises:
            RuntimeError: it is gone, or it has other tensors, or one of them was written.
        """
        model = self.watched.model()
        if model is None:
            raise RuntimeError("the model is gone: ask for its fingerprint while it is there")
        if not self.watched.holds(model) or self.watched.facts() != self.facts:
            raise RuntimeError(
                "the model has changed since it was planned or filled: use convinit_ext.fingerprint(model)"
            )
        return model


class Watched:
    """The tensors of a model's state dict and their places. Neither is kept alive.

    Args:
        model: any module.

    >>> layer = nn.Linear(2, 2)
    >>> moment = Watched(layer).moment()
    >>> moment.model() is layer
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = weakref.ref(model)
        entries = list(_entries(model))
        self._paths = [path for path, _ in entries]
        self._tensors = [weakref.ref(tensor) for _, tensor in entries]

    def moment(self) -> Moment:
        """The model as it is now."""
        return Moment(self, self.facts())

    def holds(self, model: nn.Module) -> bool:
        """Whether the model has these tensors in these places, and no others."""
        entries = list(_entries(model))
        return [path for path, _ in entries] == self._paths and all(
            tensor is reference() for (_, tensor), reference in zip(entries, self._tensors, strict=True)
        )

    def facts(self) -> _Facts:
        tensors = [tensor for reference in self._tensors if (tensor := reference()) is not None]
        return (
            list(map(_version, tensors)),
            [
                tensor.untyped_storage()._cdata
                if type(tensor) is nn.Parameter and tensor.layout is torch.strided  # as most are
                else _place(tensor)
                for tensor in tensors
            ],
        )


def _entries(model: nn.Module) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for path, module in model.named_modules():
        for leaf, tensor in module._parameters.items():
            if tensor is not None:
                yield (path, leaf), tensor
        for leaf, tensor in module._buffers.items():
            if tensor is not None and leaf not in module._non_persistent_buffers_set:
                yield (path, leaf), tensor


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _place(tensor: Tensor) -> object:
    """Not every tensor is a view of one piece of memory. A DTensor's is written behind its back too."""
    local = local_of(tensor)
    return (local.untyped_storage()._cdata, _version(local)) if has_memory(tensor) else None


class Places:
    """Some tensors' places, and what the tensors are; values may change. A plan is run again within
    microseconds for each tensor, and so is this question.

    >>> from convinit_ext import walk
    >>> layer = nn.Linear(2, 2)
    >>> places = Places(walk.parameters(walk.modules(layer)))
    >>> layer.bias = nn.Parameter(torch.zeros(2))
    >>> places.changed()
    ['bias']
    """

    def __init__(self, held: Sequence[Held]) -> None:
        places = [(each, module, leaf) for each in held for module, leaf in each.places]
        self._held = [each for each, _, _ in places]
        self._tensors = [each.tensor for each in self._held]
        self._places = [
            (vars(module), "_parameters" if leaf in module._parameters else "_buffers", leaf)
            for _, module, leaf in places
        ]
        self._facts = self._now()

    def changed(self) -> list[str]:
        """The paths of those that are no longer there, or of another shape, dtype or device."""
        now = self._now()
        if now == self._facts:
            return []
        differs = [
            fact != before
            for fact, before in zip(zip(*now, strict=True), zip(*self._facts, strict=True), strict=True)
        ]
        return list(dict.fromkeys(held.path for held, each in zip(self._held, differs, strict=True) if each))

    def _now(self) -> tuple[list[int | None], list[torch.Size], list[torch.dtype], list[torch.device]]:
        tensors = self._tensors
        return (
            [  # no dicts in a ScriptModule: without get
                id(holder[leaf]) if leaf in (holder := module[kind]) else None
                for module, kind, leaf in self._places
            ],
            [tensor.shape for tensor in tensors],
            [tensor.dtype for tensor in tensors],
            [tensor.device for tensor in tensors],
        )
