"""Parts of parametrized weights: which plain weight each stands for, so that rules for that weight fit them.

weight_norm (both forms), spectral_norm (both forms) and parametrizations that change one tensor into another.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinit_ext.derived import NormOf
from convinit_ext.initialisers import Fan, Target
from convinit_ext.walk import Held, join

_PARTS = frozenset(("original", "original0", "original1"))  # names of parametrize
_OLD_PARTS = ("_g", "_v", "_orig")  # endings of the older weight_norm and spectral_norm


def target_of(held: Held, fan: Fan) -> Target:
    """The parameter as rules see it."""
    leaf, node = held.places[0][1], held.node
    if leaf == "weight" or leaf == "bias":  # most of them
        return Target(held.name, leaf, held.tensor, node.module, node.parents, fan)
    if leaf in _PARTS and isinstance(node.module, ParametrizationList):
        return _new_part(held, leaf, fan)
    if leaf.endswith(_OLD_PARTS) and node.module._forward_pre_hooks:
        return _old_part(held, leaf, fan)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan)


def _new_part(held: Held, leaf: str, fan: Fan) -> Target:
    node = held.node
    prefix, _, weight = node.canonical.rpartition(".")
    owner = prefix.removesuffix("parametrizations").removesuffix(".")
    plain, norm = None, None
    held_by: Any = next(node.module.children())  # what makes the weight of its parts
    if leaf == "original":
        if not hasattr(held_by, "orthogonal_map"):  # its original is no weight, but what makes one
            plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
    elif type(held_by).__name__ == "_WeightNorm":
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
        if leaf == "original0":
            norm = NormOf(join(node.canonical, "original1"), held_by.dim)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, norm)


def _old_part(held: Held, leaf: str, fan: Fan) -> Target:
    node = held.node
    plain, norm = None, None
    weight, _, part = leaf.rpartition("_")
    for hook in node.module._forward_pre_hooks.values():
        if not isinstance(hook, WeightNorm if part in "gv" else SpectralNorm) or hook.name != weight:
            continue
        plain = Target(join(node.canonical, weight), weight, held.tensor, node.module, node.parents, fan)
        if part == "g":
            norm = NormOf(join(node.canonical, f"{weight}_v"), hook.dim)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, norm)


def is_shadow(module: nn.Module, leaf: str) -> bool:
    """Whether a buffer is only the weight that the older spectral_norm computes before each call."""
    return any(
        isinstance(hook, SpectralNorm) and hook.name == leaf for hook in module._forward_pre_hooks.values()
    )
