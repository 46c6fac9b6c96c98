"""Parts of parametrized weights: which plain weight each stands for, so that rules for that weight fit them.

weight_norm and spectral_norm (both forms of each), orthogonal, and any parametrization of one tensor by one.
"""

from __future__ import annotations

from typing import Any

from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinit_ext.distributions import Distribution, Normal
from convinit_ext.model import _spectral as spectral
from convinit_ext.model._named_tensors import Held, Node, canonical, join
from convinit_ext.recipes import Fan, MinusIdentity, NormOf, Orthogonal, Target

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
    if not _has_owner(node):
        return Target(held.name, leaf, held.tensor, node.module, node.parents, fan)
    module = canonical(node.canonical)
    prefix, _, weight = module.rpartition(".")
    owner = prefix.removesuffix("parametrizations").removesuffix(".")
    plain: Target | None = None
    start: NormOf | MinusIdentity | None = None
    held_by: Any = next(node.module.children())  # what makes the weight of its parts
    if leaf == "original":
        if not hasattr(held_by, "orthogonal_map") or _is_free(held_by):
            plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
    elif type(held_by).__name__ == "_WeightNorm":
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
        if leaf == "original0":
            start = NormOf(join(module, "original1"), held_by.dim)
    if getattr(held_by, "base", None) is not None:
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
        start = MinusIdentity()
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, start)


def _has_owner(node: Node) -> bool:
    """Whether the layer that is parametrized is there: a model may be no more than its `parametrizations`."""
    return len(node.parents) > 1 and node.parents[-2]._modules.get("parametrizations") is node.parents[-1]


def _is_free(orthogonal: Any) -> bool:
    """Whether every matrix makes an orthogonal one, so that its original may be any plain weight."""
    return not hasattr(orthogonal, "base") and orthogonal.orthogonal_map.name != "householder"


def _old_part(held: Held, leaf: str, fan: Fan) -> Target:
    node = held.node
    plain, start = None, None
    weight, _, part = leaf.rpartition("_")
    for hook in node.module._forward_pre_hooks.values():
        if not isinstance(hook, WeightNorm if part in "gv" else SpectralNorm) or hook.name != weight:
            continue
        name = canonical(join(node.canonical, weight))
        plain = Target(name, weight, held.tensor, node.module, node.parents, fan)
        if part == "g":
            start = NormOf(canonical(join(node.canonical, f"{weight}_v")), hook.dim)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, start)


def drawn_start(held: Held) -> Distribution | Orthogonal | None:
    """What a buffer of spectral_norm or orthogonal starts from, as when PyTorch parametrizes a weight."""
    module, leaf = held.places[0]
    if hasattr(module, "orthogonal_map"):
        return Orthogonal() if leaf == "base" and held.tensor.ndim == 2 else None
    return Normal() if spectral.is_vector(held) else None


def plain_name(held: Held) -> str | None:
    """The name of the plain weight that such a buffer belongs to; None of any other buffer."""
    if drawn_start(held) is None:
        return None
    leaf, module = held.places[0][1], held.node.canonical
    if leaf.endswith(spectral.VECTORS) and leaf not in spectral.VECTORS:
        return canonical(join(module, leaf[:-2]))
    owner, _, weight = module.rpartition(".")[0].rpartition(".")
    return canonical(join(owner.removesuffix("parametrizations").removesuffix("."), weight))
