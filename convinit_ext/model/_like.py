"""like=: a model whose modules lost their types, as a traced pipeline stage; another says them by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from convinit_ext._engine import listed
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedTensor


def take_modules(held: Iterable[NamedTensor], like: nn.Module | None, buffers: bool = False) -> None:
    """Give parameters or buffers the modules, and the first name, that `like` has for them.

    A tied parameter of the whole model has one key, under whatever name a part of the model holds it. Raises
    TypeError for no module, ValueError for a parameter that `like` has not, or has in another shape.
    """
    if like is None:
        return
    if not isinstance(like, nn.Module):
        raise TypeError(f"like must be a torch.nn.Module, not {type(like).__name__}")
    nodes = list(walk.modules(like))
    names = walk.every_name(like)
    theirs = {
        name: each
        for each in (walk.buffers(nodes) if buffers else walk.parameters(nodes))
        for name in names[id(each.tensor)]
    }
    lost = []
    for each in held:
        found = theirs.get(walk.canonical(each.name))
        if found is not None and found.tensor.shape == each.tensor.shape:
            each.node, each.name = found.node, found.name
        elif found is not None:
            raise ValueError(
                f"{each.path!r} has shape {list(each.tensor.shape)}, and in the model of like= "
                f"{list(found.tensor.shape)}"
            )
        else:
            lost.append(each.path)
    if lost and not buffers:
        raise ValueError(f"the model of like= has no parameters called {listed(lost)}")
