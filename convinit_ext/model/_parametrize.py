"""Parts of parametrized weights: weight_norm and spectral_norm (both forms of each), orthogonal, and any
parametrization of one tensor by one. Which plain weight a part stands for, so that rules for that weight fit
it, and what the buffers of a parametrization start from.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinit_ext.distributions import Distribution, Normal
from convinit_ext.model._named_tensors import NamedModule, NamedTensor, canonical, join
from convinit_ext.model._spectral import VECTORS, vectors_of
from convinit_ext.recipes import MINUS_IDENTITY, Fan, NormOf, Orthogonal, Target, Transformed
from convinit_ext.sharding import logical

_PARTS = frozenset(("original", "original0", "original1"))  # names of parametrize
_OLD_PARTS = ("_g", "_v", "_orig")  # endings of the older weight_norm and spectral_norm


def target_of(held: NamedTensor, fan: Fan) -> Target:
    """Return the parameter as rules see it: of the logical shape, also where this process has a part."""
    leaf, node = held.places[0][1], held.node
    tensor = held.tensor if held.is_plain else logical(held.tensor)
    target = Target(held.name, leaf, tensor, node.module, node.parents, fan)
    if leaf == "weight" or leaf == "bias":  # most of them
        return target
    if leaf in _PARTS and isinstance(node.module, ParametrizationList) and _has_owner(node):
        target.plain, target.start = _of_new_part(target, node)
    elif leaf.endswith(_OLD_PARTS) and node.module._forward_pre_hooks:
        target.plain, target.start = _of_old_part(target, node)
    return target


def _of_new_part(part: Target, node: NamedModule) -> tuple[Target | None, NormOf | Transformed | None]:
    """Return the plain weight that a part stands for, and its values where no rule for that decides."""
    leaf, module = part.parameter, canonical(node.canonical)
    held_by: Any = next(node.module.children())  # what makes the weight of its parts
    start: NormOf | Transformed | None = None
    if leaf == "original":
        stands_for_weight = not hasattr(held_by, "orthogonal_map") or _is_free(held_by)
    else:
        stands_for_weight = type(held_by).__name__ == "_WeightNorm"
        if stands_for_weight and leaf == "original0":
            start = NormOf(join(module, "original1"), held_by.dim)
    if getattr(held_by, "base", None) is not None:
        stands_for_weight, start = True, MINUS_IDENTITY
    if not stands_for_weight:
        return None, start
    owner, weight = _owner_and_weight(module)
    *parents, layer, _ = node.parents
    return Target(join(owner, weight), weight, part.tensor, layer, tuple(parents), part.fan), start


def _owner_and_weight(path: str) -> tuple[str, str]:
    """Split "layer.parametrizations.weight", the path of a ParametrizationList: ("layer", "weight")."""
    prefix, _, weight = path.rpartition(".")
    return prefix.removesuffix("parametrizations").removesuffix("."), weight


def _has_owner(node: NamedModule) -> bool:
    """Whether the layer that is parametrized is there: a model may be no more than its `parametrizations`."""
    return len(node.parents) > 1 and node.parents[-2]._modules.get("parametrizations") is node.parents[-1]


def _is_free(orthogonal: Any) -> bool:
    """Whether every matrix makes an orthogonal one, so that its original may be any plain weight."""
    return not hasattr(orthogonal, "base") and orthogonal.orthogonal_map.name != "householder"


def _of_old_part(part: Target, node: NamedModule) -> tuple[Target | None, NormOf | None]:
    """Return the same of a part of the older forms."""
    weight, _, kind = part.parameter.rpartition("_")
    for hook in node.module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm if kind in "gv" else SpectralNorm) and hook.name == weight:
            name = canonical(join(node.canonical, weight))
            start = NormOf(canonical(join(node.canonical, f"{weight}_v")), hook.dim) if kind == "g" else None
            return Target(name, weight, part.tensor, node.module, node.parents, part.fan), start
    return None, None


def owners(node: NamedModule) -> list[nn.Module]:
    """Return a module, and the layer whose parametrized weight is made of what the module holds, if any."""
    inside = itertools.pairwise((*node.parents, node.module))
    return [node.module, *(each for each, child in inside if each._modules.get("parametrizations") is child)]


def start_of(held: NamedTensor) -> Distribution | Orthogonal | None:
    """Return what a buffer of spectral_norm or orthogonal starts from when PyTorch parametrizes a weight."""
    module, leaf = held.places[0]
    if hasattr(module, "orthogonal_map"):
        return Orthogonal() if leaf == "base" and held.tensor.ndim == 2 else None
    return Normal() if vectors_of(held) else None


def plain_name(held: NamedTensor) -> str | None:
    """Return the name of the plain weight that a part or buffer of a parametrization belongs to, if any."""
    leaf, module = held.places[0][1], held.node.canonical
    if leaf == "weight" or leaf == "bias":
        return None
    plain = target_of(held, "true").plain
    if plain is not None:
        return plain.name
    if start_of(held) is None:
        return None
    if leaf.endswith(VECTORS) and leaf not in VECTORS:
        return canonical(join(module, leaf[:-2]))
    return canonical(join(*_owner_and_weight(module.rpartition(".")[0])))
