"""What a model runs on: the caller's inputs, or guesses by its first layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convinit_ext.model import dtype_name, walk

ACCEPTED = "a tensor, a tuple of arguments or a dict of keyword arguments"
_BATCH = 16  # and the length of sequences
_MAX_LAYERS = 4  # that guesses are made by
_MANY = 1 << 18  # elements, above which a batch is smaller
# Pixels or samples a side, of one, two and three dimensions: some models take one size only.
_SIZES = ((64, 128, 256, 1024, 3000, 16000), (32, 28, 8, 16, 64, 96, 128, 224, 256, 384), (16, 32, 64))


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of a forward pass, and what they are in words."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    text: str

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return copies of the arguments, which the model may write to."""
        args: tuple[Any, ...] = _copied(self.args)
        kwargs: dict[str, Any] = _copied(self.kwargs)
        return args, kwargs


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return {key: _copied(each) for key, each in value.items()} if type(value) is dict else value


def checked_inputs(inputs: Any) -> Inputs:
    """Return the caller's inputs as arguments."""
    if isinstance(inputs, Mapping):  # BatchEncoding of transformers too
        kwargs = dict(inputs)
        return Inputs((), kwargs, ", ".join(f"{name} {_text(value)}" for name, value in kwargs.items()))
    if not isinstance(inputs, Tensor | list | tuple):
        raise TypeError(f"inputs must be {ACCEPTED}, not {type(inputs).__name__}")
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return Inputs(args, {}, ", ".join(map(_text, args)))


def _text(value: Any) -> str:
    tensor = isinstance(value, Tensor)
    return f"{dtype_name(value.dtype)} {list(value.shape)}" if tensor else type(value).__name__


def guesses(model: nn.Module, seed: int) -> Iterator[Inputs]:
    """Yield inputs that the model may take, by its first layers, and what transformers calls dummy inputs."""
    generator = torch.Generator().manual_seed(seed)
    known: set[object] = set()
    for node in walk.modules(model):
        module: Any = node.module
        shapes = [(max(2, min(_BATCH, _MANY // math.prod(each))), *each) for each in _shapes(module)]
        if not shapes or (type(module), shapes[0]) in known or len(known) == _MAX_LAYERS:
            continue
        known.add((type(module), shapes[0]))
        weight = next(module.parameters())
        for shape in shapes:
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                tensor = torch.randint(module.num_embeddings, shape, generator=generator)
            else:
                tensor = torch.randn(shape, generator=generator).to(weight.dtype)
            kind = type(module).__name__
            layer = f"{node.canonical} ({kind})" if node.canonical else f"the {kind}"
            yield Inputs((tensor.to(weight.device),), {}, f"{_text(tensor)}, guessed from {layer}")
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping):
        device = next(model.parameters()).device
        tensors = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in dummy.items()}
        yield Inputs((), tensors, "its dummy_inputs")


def _shapes(module: Any) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of inputs that a layer takes, without the batch, the likeliest first."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield from ((_BATCH,), ())
    elif isinstance(module, nn.Linear):
        yield from ((module.in_features,), (_BATCH, module.in_features))
    elif isinstance(module, _ConvNd):
        num_dims = len(module.kernel_size)
        yield from ((module.in_channels, *[size] * num_dims) for size in _SIZES[num_dims - 1])
    elif isinstance(module, nn.RNNBase):
        yield (_BATCH, module.input_size)
    elif isinstance(module, nn.RNNCellBase):
        yield (module.input_size,)
