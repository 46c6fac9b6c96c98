"""What modules offer to rebuild their own buffers: transformers' models above all, without importing them.

A model with `_init_weights(module)` (PreTrainedModel of transformers) writes a module's buffers as it writes
its parameters. It is shown a copy of the module whose parameters are on the meta device, so that only buffers
are written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.walk import Held, Node

_FREQUENCIES = ("inv_freq", "original_inv_freq")


class Offers:
    """The values that modules offer, each module asked once."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Tensor]] = {}

    def of(self, held: Held) -> Tensor | None:
        """The values of a meta buffer, on the CPU; None if nobody offers any."""
        node, leaf = held.node, held.places[0][1]
        if id(node.module) not in self._known:
            self._known[id(node.module)] = _asked(node)
        values = self._known[id(node.module)].get(leaf)
        if values is None:
            values = _by_name(leaf, held.tensor)
        return values if values is not None and values.shape == held.tensor.shape else None


def _asked(node: Node) -> dict[str, Tensor]:
    """All that the module or a model around it offers. What fails is not offered: it is foreign code."""
    found: dict[str, Tensor] = {}
    with torch.no_grad(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        for ask in (_rotary, _by_init_weights):
            try:
                found |= ask(node)
            except Exception:
                continue
    return found


def _rotary(node: Node) -> dict[str, Tensor]:
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


def _by_init_weights(node: Node) -> dict[str, Tensor]:
    """What the nearest model around the module writes into its buffers."""
    owner = next(
        (
            each
            for each in (node.module, *reversed(node.parents))
            if callable(getattr(each, "_init_weights", None))
        ),
        None,
    )
    if owner is None:
        return {}
    shown = _shown(node.module)
    before = {leaf: buffer._version for leaf, buffer in shown._buffers.items() if buffer is not None}
    owner._init_weights(shown)  # type: ignore[operator]
    return {
        leaf: buffer
        for leaf, buffer in shown._buffers.items()
        if buffer is not None and buffer._version > before.get(leaf, -1)
    }


def _shown(module: nn.Module) -> nn.Module:
    """A copy that can be written without harm: parameters on the meta device, buffers on the CPU."""
    shown = type(module).__new__(type(module))
    shown.__dict__.update(module.__dict__)
    shown._parameters = {
        leaf: None if each is None else nn.Parameter(_meta(each), each.requires_grad)
        for leaf, each in module._parameters.items()
    }
    shown._buffers = {
        leaf: None if each is None else torch.empty(each.shape, dtype=each.dtype, device="cpu")
        for leaf, each in module._buffers.items()
    }
    shown._modules = {leaf: None if each is None else _shown(each) for leaf, each in module._modules.items()}
    return shown


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _by_name(leaf: str, tensor: Tensor) -> Tensor | None:
    """Tables whose name and shape say their values: positions [n] or [1, n] from 0, token types of zeros."""
    is_row = tensor.ndim in (1, 2) and tensor.shape.numel() == tensor.shape[-1]
    if tensor.is_floating_point() or tensor.is_complex() or not is_row:
        return None
    if leaf == "position_ids":
        return torch.arange(tensor.shape[-1], dtype=tensor.dtype, device="cpu").expand(tensor.shape)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu") if leaf == "token_type_ids" else None
