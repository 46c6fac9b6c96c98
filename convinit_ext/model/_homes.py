"""Which modules of a model hold tensors, and under which names: a plan is for these alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedModule

_LEAVES = ("_parameters", "_buffers")


class Homes:
    """The places of a model's tensors, whatever tensors are there. The model is seen anew at each question.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> homes = Homes(list(walk.modules(model)))
    >>> model[0] = nn.Linear(2, 2)
    >>> homes.changed()
    ['0.weight', '0.bias']
    """

    def __init__(self, nodes: Sequence[NamedModule]) -> None:
        self._nodes = nodes
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
        self._facts = self._now()

    def changed(self) -> list[str]:
        """The paths of tensors that are in other modules, or that are new; those that are gone."""
        if self._now() == self._facts:
            return []
        now = Homes(list(walk.modules(self._nodes[0].module)))
        before, after = self._modules(), now._modules()
        changed = [path for path in before | after if before.get(path) is not after.get(path)]
        if not changed:
            self.__dict__.update(now.__dict__)
        return changed

    def _modules(self) -> dict[str, nn.Module]:
        """Return the module of each path to a tensor, as they were."""
        absent, places = set(self._absent), zip(itertools.cycle(self._nodes), self._facts[0], strict=False)
        return {
            walk.join(node.path, leaf): node.module
            for at, (node, leaves) in enumerate(places)
            for leaf in leaves
            if (at, leaf) not in absent
        }

    def _now(self) -> tuple[list[tuple[str, ...]], list[int], list[bool]]:
        """What differs where places do, and is quick to ask: a plan is run again within microseconds."""
        return (
            [*map(tuple, self._leaves)],
            [*map(id, itertools.chain.from_iterable(self._children))],
            [self._holders[at].get(leaf) is None for at, leaf in self._absent],
        )
