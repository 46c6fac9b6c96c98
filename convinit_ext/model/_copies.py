"""Parameters by every name, and what copies of them are filled with."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._fillings import Filling
from convinit_ext.model._named_tensors import Held
from convinit_ext.recipes import CopyFrom, Derived, NormOf, root_of


class Parameters:
    """The parameters of a model; its names are only collected where something asks for one."""

    def __init__(self, model: nn.Module, held: list[Held]) -> None:
        self._model = model
        self._held = held
        self._by_name: dict[str, Held] | None = None

    def copied(
        self, held: Held, filling: Filling, filling_of: Callable[[Held], Filling]
    ) -> tuple[Held, Filling]:
        """The parameter at the end of a chain of copies, and its filling as the one of `held`.

        Raises:
            ValueError: a cycle, a name that no parameter has, another shape.
        """
        fillings = {held.name: filling}

        def copied(name: str) -> CopyFrom | None:
            source = self.named(name, held)
            if source.name not in fillings:
                fillings[source.name] = filling_of(source)
            copy = fillings[source.name].copy
            return None if copy is None else CopyFrom(self.named(copy.name, source).name)

        origin = self.named(root_of(held.name, copied), held)
        if origin.tensor.shape != held.tensor.shape:
            raise ValueError(
                f"parameter {held.name!r} of shape {list(held.tensor.shape)} cannot copy from "
                f"{origin.name!r} of shape {list(origin.tensor.shape)}"
            )
        return origin, fillings[origin.name]._replace(initialiser=filling.initialiser)

    def source_of(self, name: str, derived: Derived) -> Held | None:
        """The parameter that a derived one is made of."""
        if not isinstance(derived, NormOf):
            return None
        found = self._names().get(derived.name)
        if found is None:
            raise ValueError(
                f"parameter {name!r} is the norm of {derived.name!r}, which the model does not have"
            )
        return found

    def named(self, name: str, asking: Held) -> Held:
        found = self._names().get(name)
        if found is None:
            raise ValueError(f"parameter {asking.name!r} copies from {name!r}, which the model does not have")
        return found

    def _names(self) -> dict[str, Held]:
        """The parameter that is filled, by every name of it and of those tied to it."""
        if self._by_name is None:
            names = walk.every_name(self._model)
            groups = walk.tied([each for each in self._held if walk.has_memory(each.tensor)])
            self._by_name = {
                name: group[0]
                for group in groups
                for each in group
                for name in (each.name, *names[id(each.tensor)])
            }
        return self._by_name
