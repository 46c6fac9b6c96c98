"""What modules offer to rebuild their own buffers; no other package is imported.

transformers' models have `_init_weights(module)`, which writes a module's buffers as it writes its
parameters; timm's and torchvision's modules have methods of their own. All get a copy of the module whose
parameters are on the meta device, so that only buffers are written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.recipes import Preset, Redrawn, constructed, others_kept, seeded, shown_copy

_FREQUENCIES = ("inv_freq", "original_inv_freq")
# Methods without arguments that make buffers: of timm, of torchvision's Swin and MaxViT, and of torchtitan.
_METHODS = (
    "init_non_persistent_buffers",
    "_init_buffers",
    "reset_buffers",
    "define_relative_position_index",
    "_init_self_buffers",
)


class Offers:
    """The values that modules offer, each module asked once."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Tensor | Redrawn]] = {}

    def of(self, held: NamedTensor) -> Preset | Redrawn | None:
        """The values of a buffer, on the CPU; None if nobody offers any."""
        node, leaf = held.node, held.places[0][1]
        if id(node.module) not in self._known:
            self._known[id(node.module)] = _offered_by(node)
        values = self._known[id(node.module)].get(leaf)
        if isinstance(values, Redrawn):
            return values
        if values is None:
            values = _by_name(leaf, held.tensor)
        if values is None and held.tensor.is_meta:
            values = _of_frozen_norm(node.module, leaf, held.tensor)
        if values is None and held.tensor.is_meta:
            made = constructed(node.module, node.parents)
            buffer = None if made is None else made[0]._buffers.get(leaf)
            values = None if buffer is None or buffer.is_meta else buffer.detach()
        return Preset(values) if values is not None and values.shape == held.tensor.shape else None


def _of_frozen_norm(module: nn.Module, leaf: str, buffer: Tensor) -> Tensor | None:
    """What DETR's frozen BatchNorm, which has buffers alone, starts from."""
    start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.get(leaf)
    if start is None or "FrozenBatchNorm" not in type(module).__name__:
        return None
    return torch.full_like(buffer, start, device="cpu")


def _offered_by(node: NamedModule) -> dict[str, Tensor | Redrawn]:
    """All that the module or a model around it offers. What fails is not offered: it is foreign code."""
    found: dict[str, Tensor | Redrawn] = {}
    for ask in (_rotary, _by_init_weights, _by_methods):
        with suppress(Exception):
            found |= _fixed_or_drawn(node, ask)
    return found


def _fixed_or_drawn(
    node: NamedModule, ask: Callable[[NamedModule], dict[str, Tensor]]
) -> dict[str, Tensor | Redrawn]:
    """What one way of asking gives; values that are drawn by a global generator are drawn when they are due.

    Those that are random by something else, which no seed decides, nobody offers.
    """
    first, other = (seeded(seed, lambda: ask(node)) for seed in (0, 1))
    drawn = {leaf for leaf, values in first.items() if not torch.equal(values, other[leaf])}
    again = seeded(0, lambda: ask(node)) if drawn else {}

    def redrawn(leaf: str) -> Redrawn:
        return Redrawn(type(node.module).__qualname__, lambda: ask(node)[leaf])

    return {
        leaf: redrawn(leaf) if leaf in drawn else values
        for leaf, values in first.items()
        if leaf not in drawn or torch.equal(values, again[leaf])
    }


def _rotary(node: NamedModule) -> dict[str, Tensor]:
    """Rotary position embeddings: their own function makes the frequencies of their config."""
    module: Any = node.module
    if not any(leaf in module._buffers for leaf in _FREQUENCIES):
        return {}
    make = getattr(module, "rope_init_fn", None) or getattr(module, "compute_default_rope_parameters", None)
    if make is None or (
        not hasattr(module, "rope_init_fn") and getattr(module, "rope_type", "") != "default"
    ):
        return {}
    values, _ = make(module.config, device=torch.device("cpu"))
    return dict.fromkeys(_FREQUENCIES, values)


def _by_init_weights(node: NamedModule) -> dict[str, Tensor]:
    """What the nearest model around the module writes into its buffers."""
    around = (node.module, *reversed(node.parents))
    owner: Any = next((each for each in around if callable(getattr(each, "_init_weights", None))), None)
    return {} if owner is None else _written(node.module, owner._init_weights)


def _by_methods(node: NamedModule) -> dict[str, Tensor]:
    """What the module's own methods make."""
    found: dict[str, Tensor] = {}
    for name in _METHODS:
        if callable(getattr(type(node.module), name, None)):
            found |= _written(node.module, methodcaller(name))
    return found


def _written(module: nn.Module, write: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """The buffers that a function assigns or writes, of a copy of the module."""
    shown = shown_copy(module)
    held = dict(shown._buffers)  # so that an id stays its own
    before = {leaf: (id(each), each._version) for leaf, each in held.items() if each is not None}
    with others_kept(shown):
        write(shown)
        return {
            leaf: buffer.detach().clone()
            for leaf, buffer in shown._buffers.items()
            if buffer is not None and not buffer.is_meta and before.get(leaf) != (id(buffer), buffer._version)
        }


def _by_name(leaf: str, tensor: Tensor) -> Tensor | None:
    """Tables whose name and shape say their values: positions [n] or [1, n] from 0, token types of zeros."""
    is_row = tensor.ndim in (1, 2) and tensor.shape.numel() == tensor.shape[-1]
    if tensor.is_floating_point() or tensor.is_complex() or not is_row:
        return None
    if leaf == "position_ids":
        return torch.arange(tensor.shape[-1], dtype=tensor.dtype, device="cpu").expand(tensor.shape)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu") if leaf == "token_type_ids" else None
