"""Parts of parametrized weights: weight_norm and spectral_norm (both forms of each), orthogonal, and any
parametrization of one tensor by one. Which plain weight a part stands for, so that rules for that weight fit
it, and what the buffers of a parametrization start from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinit_ext._engine import naming
from convinit_ext.distributions import Distribution, Normal
from convinit_ext.model._named_tensors import NamedModule, NamedTensor, canonical, join
from convinit_ext.recipes import MINUS_IDENTITY, Fan, NormOf, Orthogonal, Target, Transformed, check_given
from convinit_ext.sharding import is_dtensor, logical_shape

_PARTS = frozenset(("original", "original0", "original1"))  # names of parametrize
_OLD_PARTS = ("_g", "_v", "_orig")  # endings of the older weight_norm and spectral_norm
_VECTORS = ("_u", "_v")  # of spectral_norm: names in the newer form, endings in the older
_POWER_ITERATIONS = 15  # as in torch.nn.utils.parametrizations


def target_of(held: NamedTensor, fan: Fan) -> Target:
    """Return the parameter as rules see it."""
    leaf, node = held.places[0][1], held.node
    if leaf == "weight" or leaf == "bias":  # most of them
        return Target(held.name, leaf, held.tensor, node.module, node.parents, fan)
    if leaf in _PARTS and isinstance(node.module, ParametrizationList) and _has_owner(node):
        return _new_part(held, leaf, fan)
    if leaf.endswith(_OLD_PARTS) and node.module._forward_pre_hooks:
        return _old_part(held, leaf, fan)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan)


def _new_part(held: NamedTensor, leaf: str, fan: Fan) -> Target:
    node = held.node
    module = canonical(node.canonical)
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
    plain: Target | None = None
    if stands_for_weight:
        owner, weight = _owner_and_weight(module)
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, start)


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


def _old_part(held: NamedTensor, leaf: str, fan: Fan) -> Target:
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
    if leaf.endswith(_VECTORS) and leaf not in _VECTORS:
        return canonical(join(module, leaf[:-2]))
    return canonical(join(*_owner_and_weight(module.rpartition(".")[0])))


def vectors_of(held: NamedTensor) -> tuple[str, str] | None:
    """Return the names of both vectors of spectral_norm in their module, if this buffer is one of them."""
    module, leaf = held.places[0]
    if not leaf.endswith(_VECTORS):
        return None
    if _is_newer(module):
        return ("_u", "_v") if leaf in _VECTORS else None
    prefix = leaf[:-2]
    return None if _old_hook(module, prefix) is None else (f"{prefix}_u", f"{prefix}_v")


def _is_newer(module: nn.Module) -> bool:
    """Whether it is the newer form's, which holds vectors of its own and makes a weight of another."""
    return type(module).__name__ == "_SpectralNorm"


def _old_hook(module: nn.Module, name: str) -> SpectralNorm | None:
    hooks = module._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, SpectralNorm) and hook.name == name), None)


def spectral_weight(held: NamedTensor) -> Tensor | None:
    """Return the weight that a vector of the newer spectral_norm is settled with; None of the older form."""
    return held.node.parents[-1]._parameters["original"] if _is_newer(held.places[0][0]) else None


def check_spectral(held: NamedTensor, dtype: torch.dtype) -> None:
    """Check that a vector of spectral_norm, a buffer that starts anew, can be settled in this dtype.

    Raises:
        ValueError: PyTorch has no norm of this dtype; a DTensor, of which the norm needs the whole; a weight
            that is not there, or not one tensor.
    """
    if vectors_of(held) is None:
        return
    about = f"buffer {held.path!r}"
    if dtype.itemsize == 1:
        raise ValueError(
            f"{about}: PyTorch has no norm of {dtype}, and spectral_norm starts from one; accepted are wider "
            "dtypes"
        )
    parents = held.node.parents
    if not _is_newer(held.places[0][0]):
        weight = None
    elif not parents:
        raise ValueError(
            f"{about}: its weight is not in this model, and spectral_norm starts from it; initialise the "
            "layer around it"
        )
    elif (weight := parents[-1]._parameters.get("original")) is None:
        raise ValueError(
            f"{about}: its weight is made of several parts, and spectral_norm starts from a plain one; skip "
            "its vectors"
        )
    for what, tensor in (("it", held.tensor), ("its weight", weight)):
        if tensor is not None and (is_dtensor(tensor) or logical_shape(tensor) != tensor.shape):
            kind = "a DTensor" if is_dtensor(tensor) else "a part"
            raise ValueError(
                f"{about}: {what} is {kind}, and spectral_norm needs the whole; initialise the model "
                "before it is sharded"
            )
        if tensor is not None:
            with naming(f"{about}, {what}"):
                check_given(tensor, tensor)


def check_one_dtype(held: NamedTensor, dtypes: Mapping[int, torch.dtype]) -> None:
    """Raise ValueError unless the newer spectral_norm's weight and vectors will have one dtype.

    `held` is the second vector; the dtypes, by the ids of tensors, are those that they will have where it is
    not the one they have.
    """
    weight = spectral_weight(held)
    if weight is None:
        return
    needed = [weight, held.places[0][0]._buffers["_u"], held.tensor]
    if any(tensor is None or (tensor.is_meta and id(tensor) not in dtypes) for tensor in needed):
        return  # nothing is made of one that stays on the meta device
    own, first, second = (dtypes.get(id(tensor), tensor.dtype) for tensor in needed if tensor is not None)
    if not own == first == second:
        raise ValueError(
            f"buffer {held.path!r}: spectral_norm needs it, its '_u' and its weight in one dtype, and they "
            f"would be {second}, {first} and {own}"
        )


def settled(held: NamedTensor, drawn: Mapping[str, Tensor], weight: Tensor | None) -> dict[str, Tensor]:
    """Return the vectors of spectral_norm that PyTorch starts from, made in the memory of those drawn.

    `held` is the second; 15 iterations of the power method follow with the weight of the newer form, where it
    is known. The model stays as it is.
    """
    module, leaf = held.places[0]
    alike: Any = copy.copy(module)
    others = {name: each.clone() for name, each in module._buffers.items() if each is not None}
    alike._buffers = others | {**drawn}
    hook = _old_hook(module, leaf[:-2])
    eps: float = alike.eps if hook is None else hook.eps
    vectors = [alike._buffers[name] for name in vectors_of(held) or () if name in alike._buffers]
    for vector in vectors:
        if not vector.is_meta:  # where only one of them was chosen
            vector.copy_(nn.functional.normalize(vector, dim=0, eps=eps))
    if weight is not None and not any(vector.is_meta for vector in vectors):
        alike._power_method(alike._reshape_weight_to_matrix(weight), _POWER_ITERATIONS)
    return {name: alike._buffers[name] for name in drawn}
