"""Which modules of a model hold tensors, and under which names: a plan is for these alone."""

from __future__ import annotations

from typing import Any

from torch import nn

_LEAVES = ("_parameters", "_buffers")


class Homes:
    """The places of a model's tensors, whatever tensors are there. The model is seen anew at each question.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> homes = Homes(model)
    >>> model[0] = nn.Linear(2, 2)
    >>> homes.changed()
    ['0.weight', '0.bias']
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._homes: dict[str, nn.Module] = {}
        self._attributes: list[dict[str, Any]] = []
        self._facts: list[object] = []
        self._remember()

    def changed(self) -> list[str]:
        """The paths of tensors that are in other modules, or that are new; those that are gone."""
        if self._now() == self._facts:
            return []
        before = self._homes
        self._remember()
        paths = before | self._homes
        changed = [path for path in paths if before.get(path) is not self._homes.get(path)]
        if changed:
            self._homes = before
            self._facts = []  # to be looked at again
        return changed

    def _remember(self) -> None:
        self._homes, self._attributes, seen = {}, [], set()
        found = [("", self._model)]  # a module may hold itself
        while found:
            prefix, module = found.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            facts = vars(module)
            self._attributes.append(facts)
            for leaves in _LEAVES:
                for leaf, tensor in facts[leaves].items():
                    if tensor is not None:
                        self._homes[prefix + leaf] = module
            for name, child in reversed([*facts["_modules"].items()]):
                if child is not None:
                    found.append((f"{prefix}{name}.", child))
        self._facts = self._now()

    def _now(self) -> list[object]:
        """What differs where places do, and is quick to ask: a plan is run again within microseconds."""
        found: list[object] = [id(child) for each in self._attributes for child in each["_modules"].values()]
        for leaves in _LEAVES:
            found += [
                None if tensor is None else leaf
                for each in self._attributes
                for leaf, tensor in each[leaves].items()
            ]
        return found
