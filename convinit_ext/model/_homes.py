"""What a plan is for: modules that hold tensors under these names, and the planned tensors that they hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedModule, NamedTensor

_LEAVES = ("_parameters", "_buffers")
_OF_MODULES = 3  # of the facts, which lead: the others are of planned tensors


class Homes:
    """The places of a model's tensors, and what planned ones are; values may change.

    The model is seen anew at each question. A plan is run again within microseconds for each tensor, and so
    is this question.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> homes = Homes(list(walk.modules(model)), [])
    >>> model[0] = nn.Linear(2, 2)
    >>> homes.changed()
    ['0.weight', '0.bias']
    """

    def __init__(self, nodes: Sequence[NamedModule], held: Sequence[NamedTensor]) -> None:
        self._nodes, self._held = nodes, held
        self._tensors = [each.tensor for each in held]
        self._holders = [vars(node.module)[leaves] for leaves in _LEAVES for node in nodes]
        # Views, which show what is there when they are looked at.
        self._leaves = [holder.keys() for holder in self._holders]
        self._children = [vars(node.module)["_modules"].values() for node in nodes]
        self._absent = [
            (at, leaf)
            for at, holder in enumerate(self._holders)
            for leaf, tensor in holder.items()
            if tensor is None
        ]
        self._places = [
            (vars(module), _LEAVES[leaf not in module._parameters], leaf, each.path)
            for each in held
            for module, leaf in each.places
        ]
        self._facts = self._now()

    def changed(self) -> list[str]:
        """Return the paths of planned tensors that are no longer there, or of another shape, dtype or device.

        Where there are none, those of tensors that are in other modules, or that are new or gone.
        """
        now = self._now()
        if now == self._facts:
            return []
        planned = [*(path for *_, path in self._places), *([held.path for held in self._held] * 3)]
        facts = (itertools.chain.from_iterable(each[_OF_MODULES:]) for each in (now, self._facts))
        changed = [path for path, fact, before in zip(planned, *facts, strict=True) if fact != before]
        if not changed:
            new = Homes(list(walk.modules(self._nodes[0].module)), self._held)
            before, after = self._modules(), new._modules()
            changed = [path for path in before | after if before.get(path) is not after.get(path)]
            if not changed:
                self.__dict__.update(new.__dict__)
        return list(dict.fromkeys(changed))

    def _modules(self) -> dict[str, nn.Module]:
        """Return the module of each path to a tensor, as they were."""
        absent, places = set(self._absent), zip(itertools.cycle(self._nodes), self._facts[0], strict=False)
        return {
            walk.join(node.path, leaf): node.module
            for at, (node, leaves) in enumerate(places)
            for leaf in leaves
            if (at, leaf) not in absent
        }

    def _now(self) -> tuple[list[Any], ...]:
        """Return what differs where a plan does not hold any more, and is quick to ask."""
        tensors = self._tensors
        return (
            [*map(tuple, self._leaves)],
            [*map(id, itertools.chain.from_iterable(self._children))],
            [self._holders[at].get(leaf) is None for at, leaf in self._absent],
            [  # no dicts in a ScriptModule: without get
                id(holder[leaf]) if leaf in (holder := module[kind]) else None
                for module, kind, leaf, _ in self._places
            ],
            [tensor.shape for tensor in tensors],
            [tensor.dtype for tensor in tensors],
            [tensor.device for tensor in tensors],
        )
