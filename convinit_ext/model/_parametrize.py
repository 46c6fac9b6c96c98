"""Parts of parametrized weights: weight_norm and spectral_norm (both forms of each), orthogonal, pruning, and
any parametrization of one tensor by one. Which plain weight a part stands for, so that rules for that weight
fit it, and what the buffers of a parametrization start from: the vectors of spectral_norm settle together
once both are drawn.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinit_ext._engine import naming
from convinit_ext.distributions import Distribution, Normal
from convinit_ext.model._named_tensors import NamedModule, NamedTensor, canonical, join
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Computed, whole
from convinit_ext.recipes import MINUS_IDENTITY, Fan, NormOf, Orthogonal, Target, Transformed, check_given
from convinit_ext.sharding import is_dtensor, logical, logical_shape

_PARTS = frozenset(("original", "original0", "original1"))  # names of parametrize
_OLD_PARTS = ("_g", "_v", "_orig")  # endings of the older weight_norm and spectral_norm, and of pruning
_VECTORS = ("_u", "_v")  # names in the newer form, endings in the older
_POWER_ITERATIONS = 15  # as in torch.nn.utils.parametrizations
_Hook = TypeVar("_Hook", WeightNorm, SpectralNorm)


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


def target_of_buffer(held: NamedTensor) -> Target:
    """Return the buffer as rules see it."""
    leaf, node = held.places[0][1], held.node
    return Target(canonical(held.name), leaf, held.tensor, node.module, node.parents)


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
    weight, _, letter = part.parameter.rpartition("_")
    hook: Any = _old_hook(node.module, WeightNorm if letter in "gv" else SpectralNorm, weight)
    is_pruned = letter == "orig" and any(  # by torch.nn.utils.prune
        getattr(each, "_tensor_name", None) == weight for each in node.module._forward_pre_hooks.values()
    )
    if hook is None and not is_pruned:
        return None, None
    name = canonical(join(node.canonical, weight))
    start = NormOf(canonical(join(node.canonical, f"{weight}_v")), hook.dim) if letter == "g" else None
    return Target(name, weight, part.tensor, node.module, node.parents, part.fan), start


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
    if leaf.endswith(_VECTORS) and leaf not in _VECTORS:
        return canonical(join(module, leaf[:-2]))
    return canonical(join(*_owner_and_weight(module.rpartition(".")[0])))


def vectors_of(held: NamedTensor) -> tuple[str, str] | None:
    """Return the names of both vectors of spectral_norm in their module, if this buffer is one of them."""
    module, leaf = held.places[0]
    if not leaf.endswith(_VECTORS):
        return None
    if _is_newer(module):
        return _VECTORS if leaf in _VECTORS else None
    prefix = leaf[:-2]
    return None if _old_hook(module, SpectralNorm, prefix) is None else (f"{prefix}_u", f"{prefix}_v")


def _is_newer(module: nn.Module) -> bool:
    """Whether it is the newer form's, which holds vectors of its own and makes a weight of another."""
    return type(module).__name__ == "_SpectralNorm"


def _old_hook(module: nn.Module, kind: type[_Hook], name: str) -> _Hook | None:
    hooks = module._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, kind) and hook.name == name), None)


def check_spectral(held: NamedTensor, dtype: torch.dtype) -> None:
    """Check that a vector of spectral_norm, a buffer that starts anew, can be settled in this dtype.

    Raises:
        ValueError: PyTorch has no norm of this dtype; a DTensor, of which the norm needs the whole; a weight
            that is not there, or not one tensor.
    """
    if vectors_of(held) is None:
        return
    about, parents, weight = f"buffer {held.path!r}", held.node.parents, None
    if dtype.itemsize == 1:
        raise ValueError(
            f"{about}: PyTorch has no norm of {dtype}, and spectral_norm starts from one; accepted are wider "
            "dtypes"
        )
    if _is_newer(held.places[0][0]):
        if not parents:
            raise ValueError(
                f"{about}: its weight is not in this model, and spectral_norm starts from it; initialise the "
                "layer around it"
            )
        weight = parents[-1]._parameters.get("original")
        if weight is None:
            raise ValueError(
                f"{about}: its weight is made of several parts, and spectral_norm starts from a plain one; "
                "skip its vectors"
            )
    for what, tensor in (("it", held.tensor), ("its weight", weight)):
        if tensor is None:
            continue
        if is_dtensor(tensor) or logical_shape(tensor) != tensor.shape:
            kind = "a DTensor" if is_dtensor(tensor) else "a part"
            raise ValueError(
                f"{about}: {what} is {kind}, and spectral_norm needs the whole; initialise the model "
                "before it is sharded"
            )
        with naming(f"{about}, {what}"):
            check_given(tensor, tensor)


def settle(rows: Sequence[Row], parameters: Sequence[Row]) -> None:
    """Make the drawn vectors of spectral_norm what PyTorch starts from, where the second of them is drawn."""
    known: dict[int, Row] = {}  # all rows by their tensors, once they are needed
    for row in rows:
        held = row.held[0]
        module, leaf = held.places[0]
        names = vectors_of(held)
        if names is None or leaf != names[1]:
            continue
        known = known or {id(held.tensor): each for each in (*parameters, *rows) for held in each.held}
        weight = held.node.parents[-1]._parameters["original"] if _is_newer(module) else None
        vectors = {name: module._buffers.get(name) for name in names}
        _check_one_dtype(held, (weight, *vectors.values()), known)
        both = {name: known[id(vector)] for name, vector in vectors.items() if id(vector) in known}
        _settle_together(held, both, weight, known.get(id(weight)))


def _check_one_dtype(held: NamedTensor, needed: Sequence[Tensor | None], known: Mapping[int, Row]) -> None:
    """Raise ValueError unless the newer spectral_norm's weight and vectors will have one dtype.

    `held` is the second vector; they have the dtypes of their rows, those without keep the ones they have.
    """
    if any(tensor is None or (tensor.is_meta and id(tensor) not in known) for tensor in needed):
        return  # the older form's has no weight, and nothing is made of one that stays on the meta device
    own, first, second = (known.get(id(tensor), tensor).dtype for tensor in needed if tensor is not None)
    if not own == first == second:
        raise ValueError(
            f"buffer {held.path!r}: spectral_norm needs it, its '_u' and its weight in one dtype, and they "
            f"would be {second}, {first} and {own}"
        )


def _settle_together(
    held: NamedTensor, both: Mapping[str, Row], weight: Tensor | None, source: Row | None
) -> None:
    """Let the vectors of one spectral_norm settle, with a weight that may start anew too (`source`)."""
    starts = {name: row.values for name, row in both.items() if row.values is not None}
    made = None if source is None else source.values

    def said(name: str) -> str:
        texts = [values.text() for values in starts.values()]
        return f"settled {name} {texts} {'' if made is None else made.text()}"

    def settled(name: str, seed: int, _: torch.dtype) -> Tensor:
        drawn = {
            each: whole(values, seed, both[each].tensor.shape, both[each].dtype)
            for each, values in starts.items()
        }
        own = None if weight is None or weight.is_meta else weight.detach().cpu().contiguous()
        if made is not None and source is not None:
            own = whole(made, seed, source.tensor.shape, source.dtype)
        return _settled(held, drawn, own)[name]

    for name, row in both.items():
        row.values = Computed(partial(said, name), partial(settled, name))


def _settled(held: NamedTensor, drawn: Mapping[str, Tensor], weight: Tensor | None) -> dict[str, Tensor]:
    """Return the vectors of spectral_norm that PyTorch starts from, made in the memory of those drawn.

    15 iterations of the power method follow with the weight of the newer form, where it is known. The model
    stays as it is.
    """
    module, leaf = held.places[0]
    alike: Any = copy.copy(module)
    others = {name: each.clone() for name, each in module._buffers.items() if each is not None}
    alike._buffers = others | {**drawn}
    hook = _old_hook(module, SpectralNorm, leaf[:-2])
    eps: float = alike.eps if hook is None else hook.eps
    vectors = [alike._buffers[name] for name in vectors_of(held) or () if name in alike._buffers]
    for vector in vectors:
        if not vector.is_meta:  # where only one of them was chosen
            vector.copy_(nn.functional.normalize(vector, dim=0, eps=eps))
    if weight is not None and not any(vector.is_meta for vector in vectors):
        alike._power_method(alike._reshape_weight_to_matrix(weight), _POWER_ITERATIONS)
    return {name: alike._buffers[name] for name in drawn}
