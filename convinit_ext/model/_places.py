"""Whether the tensors of a plan are still in their places, and what they were. No value is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convinit_ext.model._named_tensors import Held


class Places:
    """Some tensors' places, and what the tensors are; values may change. A plan is run again within
    microseconds for each tensor, and so is this question.

    >>> from torch import nn
    >>> from convinit_ext.model import _named_tensors as walk
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
