"""The two vectors of spectral_norm, in both its forms: buffers that start anew, and are settled together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from convinit_ext.model._named_tensors import Held, Node
from convinit_ext.sharding import is_dtensor

VECTORS = ("_u", "_v")  # names in the newer form, endings in the older
_POWER_ITERATIONS = 15  # as in torch.nn.utils.parametrizations


def vectors_of(held: Held) -> tuple[str, str] | None:
    """The names of both vectors of spectral_norm in their module, if this buffer is one of them."""
    module, leaf = held.places[0]
    if is_newer(module):
        return VECTORS if leaf in VECTORS else None
    prefix = leaf[:-2]
    if leaf.endswith(VECTORS) and _old_hook(module, prefix) is not None:
        return f"{prefix}_u", f"{prefix}_v"
    return None


def is_newer(module: nn.Module) -> bool:
    """Whether it is the newer form's, which holds vectors of its own and makes a weight of another."""
    return type(module).__name__ == "_SpectralNorm"


def is_vector(held: Held) -> bool:
    """Whether a buffer is one of the two vectors of spectral_norm, by a rule or by what it draws."""
    return vectors_of(held) is not None


def check_settles(held: Held, dtype: torch.dtype) -> None:
    """That settle() will be able to do its part.

    Args:
        held: a buffer that starts anew.
        dtype: of its values then.

    Raises:
        ValueError: PyTorch has no norm of this dtype; a sharded weight, and the newer spectral_norm, which
            needs the whole.
    """
    if dtype.itemsize == 1 and is_vector(held):
        raise ValueError(
            f"buffer {held.path!r}: PyTorch has no norm of {dtype}, and spectral_norm starts from one; "
            "accepted are wider dtypes"
        )
    if not is_newer(held.places[0][0]):
        return
    if not held.node.parents:
        raise ValueError(
            f"buffer {held.path!r}: its weight is not in this model, and spectral_norm starts from it; "
            "initialise the layer around it"
        )
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
    if not is_newer(module) or leaf != "_v":
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


def settle(held: Held) -> None:
    """Makes the two drawn vectors of spectral_norm what PyTorch starts from, once everything is filled.

    Asked of the second of the two. The newer form has 15 iterations of the power method behind it.
    """
    module, leaf = held.places[0]
    hook = _old_hook(module, leaf[:-2]) if leaf.endswith("_v") else None
    found: Any = module
    if hook is not None:
        _normalise(module._buffers[f"{hook.name}_u"], hook.eps)
        _normalise(module._buffers[leaf], hook.eps)
    elif is_newer(module) and leaf == "_v":
        _normalise(found._u, found.eps)
        _normalise(found._v, found.eps)
        weight: Any = held.node.parents[-1]._parameters["original"]
        if not (weight.is_meta or found._u.is_meta):  # where only some of them were chosen
            matrix = found._reshape_weight_to_matrix(weight.contiguous())  # last bits depend on the order
            found._power_method(matrix, _POWER_ITERATIONS)


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


def _normalise(vector: Tensor | None, eps: float) -> None:
    assert vector is not None
    vector.copy_(nn.functional.normalize(vector, dim=0, eps=eps))


def _old_hook(module: nn.Module, name: str) -> SpectralNorm | None:
    hooks = module._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, SpectralNorm) and hook.name == name), None)
