"""Parts of parametrized weights: which plain weight each stands for, so that rules for that weight fit them.

weight_norm and spectral_norm (both forms of each), orthogonal, and any parametrization of one tensor by one.
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

from convinit_ext.boxes import is_dtensor
from convinit_ext.derived import MinusIdentity, NormOf, Orthogonal
from convinit_ext.distributions import Distribution, Normal
from convinit_ext.initialisers import Fan, Target
from convinit_ext.walk import Held, Node, join

_PARTS = frozenset(("original", "original0", "original1"))  # names of parametrize
_POWER_ITERATIONS = 15  # as in torch.nn.utils.parametrizations
_VECTORS = ("_u", "_v")  # names in the newer spectral_norm, endings in the older
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
    plain: Target | None = None
    start: NormOf | MinusIdentity | None = None
    held_by: Any = next(node.module.children())  # what makes the weight of its parts
    if leaf == "original":
        if not hasattr(held_by, "orthogonal_map") or _is_free(held_by):
            plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
    elif type(held_by).__name__ == "_WeightNorm":
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
        if leaf == "original0":
            start = NormOf(join(node.canonical, "original1"), held_by.dim)
    if getattr(held_by, "base", None) is not None:
        plain = Target(join(owner, weight), weight, held.tensor, node.parents[-2], node.parents[:-2], fan)
        start = MinusIdentity()
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, start)


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
        plain = Target(join(node.canonical, weight), weight, held.tensor, node.module, node.parents, fan)
        if part == "g":
            start = NormOf(join(node.canonical, f"{weight}_v"), hook.dim)
    return Target(held.name, leaf, held.tensor, node.module, node.parents, fan, plain, start)


def drawn_start(held: Held) -> Distribution | Orthogonal | None:
    """What a buffer of spectral_norm or orthogonal starts from, as when PyTorch parametrizes a weight."""
    module, leaf = held.places[0]
    if type(module).__name__ == "_SpectralNorm":
        return Normal() if leaf in _VECTORS else None
    if hasattr(module, "orthogonal_map"):
        return Orthogonal() if leaf == "base" and held.tensor.ndim == 2 else None
    return Normal() if leaf.endswith(_VECTORS) and _old_spectral(module, leaf[:-2]) else None


def check_settles(held: Held, dtype: torch.dtype) -> None:
    """That settle() will be able to do its part.

    Args:
        held: a buffer that starts anew.
        dtype: of its values then.

    Raises:
        ValueError: PyTorch has no norm of this dtype; a sharded weight, and the newer spectral_norm, which
            needs the whole.
    """
    if dtype.itemsize == 1 and is_settled(held):
        raise ValueError(
            f"buffer {held.path!r}: PyTorch has no norm of {dtype}, and spectral_norm starts from one; "
            "accepted are wider dtypes"
        )
    if type(held.places[0][0]).__name__ != "_SpectralNorm":
        return
    weight = held.node.parents[-1]._parameters.get("original")
    if weight is None:
        raise ValueError(
            f"buffer {held.path!r}: its weight is made of several parts, and spectral_norm starts from a "
            "plain one; skip its vectors"
        )
    if is_dtensor(weight):
        raise ValueError(
            f"buffer {held.path!r}: its weight is a DTensor, and spectral_norm needs the whole; initialise "
            "the model before it is sharded"
        )


def check_one_dtype(held: Held, dtypes: Mapping[int, torch.dtype]) -> None:
    """That settle() will find the newer spectral_norm's weight and vectors of one dtype.

    Args:
        held: a buffer that starts anew.
        dtypes: by the ids of tensors, those that they will have where it is not the one they have.

    Raises:
        ValueError: several.
    """
    module, leaf = held.places[0]
    if type(module).__name__ != "_SpectralNorm" or leaf != "_v":
        return
    needed = [held.node.parents[-1]._parameters["original"], module._buffers["_u"], held.tensor]
    if any(tensor is None or (tensor.is_meta and id(tensor) not in dtypes) for tensor in needed):
        return  # nothing is made of one that stays on the meta device
    weight, first, second = (dtypes.get(id(tensor), tensor.dtype) for tensor in needed if tensor is not None)
    if not weight == first == second:
        raise ValueError(
            f"buffer {held.path!r}: spectral_norm needs it, its '_u' and its weight in one dtype, and they "
            f"would be {second}, {first} and {weight}"
        )


def plain_name(held: Held) -> str | None:
    """The name of the plain weight that such a buffer belongs to; None of any other buffer."""
    if drawn_start(held) is None:
        return None
    leaf, canonical = held.places[0][1], held.node.canonical
    if leaf.endswith(_VECTORS) and leaf not in _VECTORS:
        return join(canonical, leaf[:-2])
    owner, _, weight = canonical.rpartition(".")[0].rpartition(".")
    return join(owner.removesuffix("parametrizations").removesuffix("."), weight)


def is_settled(held: Held) -> bool:
    """Whether settle() changes it: one of the two vectors of spectral_norm, by a rule or by what it draws."""
    module, leaf = held.places[0]
    if type(module).__name__ == "_SpectralNorm":
        return leaf in _VECTORS
    return leaf.endswith(_VECTORS) and _old_spectral(module, leaf[:-2]) is not None


def settle(held: Held) -> None:
    """Makes the two drawn vectors of spectral_norm what PyTorch starts from, once everything is filled.

    Asked of the second of the two. The newer form has 15 iterations of the power method behind it.
    """
    module, leaf = held.places[0]
    hook = _old_spectral(module, leaf[:-2]) if leaf.endswith("_v") else None
    found: Any = module
    if hook is not None:
        _normalise(module._buffers[f"{hook.name}_u"], hook.eps)
        _normalise(module._buffers[leaf], hook.eps)
    elif type(module).__name__ == "_SpectralNorm" and leaf == "_v":
        _normalise(found._u, found.eps)
        _normalise(found._v, found.eps)
        weight: Any = held.node.parents[-1]._parameters["original"]
        if not (weight.is_meta or found._u.is_meta):  # where only some of them were chosen
            found._power_method(found._reshape_weight_to_matrix(weight), _POWER_ITERATIONS)


def settled(held: Held, buffers: dict[str, Tensor], weight: Tensor | None) -> dict[str, Tensor]:
    """What `settle` makes of copies of a module's buffers, which it changes; the model stays as it is.

    Args:
        held: the second of the two vectors.
        buffers: the copies, by name.
        weight: what the parametrized weight will be, if that is there.
    """
    module, leaf = held.places[0]
    alike, owner = copy.copy(module), nn.Module()
    alike._buffers = {**buffers}
    owner._parameters["original"] = None if weight is None else nn.Parameter(weight, requires_grad=False)
    node = Node(alike, held.node.path, held.node.canonical, (owner,))
    settle(Held(buffers[leaf], held.path, held.name, node, [(alike, leaf)]))
    return {name: tensor for name, tensor in alike._buffers.items() if tensor is not None}


def vectors_of(held: Held) -> tuple[str, str] | None:
    """The names of both vectors of spectral_norm in their module, if this buffer is one of them."""
    module, leaf = held.places[0]
    if type(module).__name__ == "_SpectralNorm":
        return ("_u", "_v") if leaf in _VECTORS else None
    prefix = leaf[:-2]
    if leaf.endswith(_VECTORS) and _old_spectral(module, prefix) is not None:
        return f"{prefix}_u", f"{prefix}_v"
    return None


def _normalise(vector: Tensor | None, eps: float) -> None:
    assert vector is not None
    vector.copy_(nn.functional.normalize(vector, dim=0, eps=eps))


def _old_spectral(module: nn.Module, name: str) -> SpectralNorm | None:
    hooks = module._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, SpectralNorm) and hook.name == name), None)
