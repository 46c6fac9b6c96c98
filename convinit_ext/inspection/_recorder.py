"""What goes through a model's layers, forwards and backwards: hooks on them, and what these see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convinit_ext.inspection._result import LayerRow
from convinit_ext.model import walk

# Of one tensor: how many elements, mean, variance, and the shares of zeros and of what is not finite.
Numbers: TypeAlias = tuple[float, float, float, float, float]
_NOTHING = (1.0, math.nan, math.nan, math.nan, math.nan)


@dataclass(slots=True, eq=False)
class _Seen:
    """What the calls of one layer have shown so far."""

    module: nn.Module
    calls: int = 0
    shape: tuple[int, ...] = ()
    inputs: list[Numbers] = field(default_factory=list)
    outputs: list[Numbers] = field(default_factory=list)
    gradients: list[Numbers] = field(default_factory=list)
    # Whether outputs carry something, where inputs did. Without parameters only layers that keep the shape
    # are asked: others may make tables of positions, which are the same for every input.
    answers: set[bool] = field(default_factory=set)


class Recorder:
    """Watches the layers of a model, a copy: modules without children, or with parameters of their own."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[str, _Seen] = {}
        self._pending: list[tuple[Numbers | None, torch.Size | None]] = []
        self._handles: list[RemovableHandle] = []
        for node in walk.modules(model):
            module, name = node.module, walk.canonical(node.canonical) if node.canonical else "(model)"
            is_inside = "parametrizations" in node.path.split(".")
            if not is_inside and (not module._modules or _has_parameters(module)):
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                after = module.register_forward_hook(
                    lambda *call, name=name: self._after(name, call[0], call[-1])
                )
                self._handles += [before, after]

    def close(self) -> None:
        """Watch no more calls."""
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        self._seen.clear()
        self._pending.clear()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Look at a layer's input before the call, which may overwrite it."""
        tensor = next(_tensors_in((args, kwargs)), None)
        numbers = None if tensor is None or not tensor.is_floating_point() else _numbers(tensor)
        self._pending.append((numbers, tensor.shape if tensor is not None and _carries(tensor) else None))

    def _after(self, name: str, module: nn.Module, output: Any) -> Any:
        """Look at a layer's output, of a view at a copy, and at the gradient that comes back to it.

        What overwrites a view would take it out of the graph, and us with it, so the copy takes its place.
        """
        numbers, carried = self._pending.pop()
        seen = self._seen.setdefault(name, _Seen(module))
        seen.calls += 1
        if numbers is not None:
            seen.inputs.append(numbers)
        for tensor in floats_in(output)[:1]:
            if tensor is output and tensor._is_view():
                tensor = output = tensor.clone()
            seen.shape = tuple(tensor.shape)
            seen.outputs.append(_numbers(tensor))
            if carried is not None and (_has_parameters(module) or tensor.shape == carried):
                seen.answers.add(_carries(tensor))
            if tensor.requires_grad:
                hook: Any = tensor.register_hook
                hook(lambda gradient: seen.gradients.append(_numbers(gradient)))
        return output

    def rows(self, recipe: str) -> list[LayerRow]:
        """Return a row for each layer that was called, in the order of the first calls."""
        return [_row(recipe, name, seen) for name, seen in self._seen.items()]


def _row(recipe: str, name: str, seen: _Seen) -> LayerRow:
    _, input_variance, _, _ = _together(seen.inputs)
    mean, variance, zeros, not_finite = _together(seen.outputs)
    gradient_mean, gradient_variance, _, _ = _together(seen.gradients)
    return LayerRow(
        recipe=recipe,
        name=name,
        kind=type(seen.module).__name__,
        calls=seen.calls,
        shape=seen.shape,
        has_parameters=_has_parameters(seen.module),
        input_std=math.sqrt(input_variance),
        mean=mean,
        std=math.sqrt(variance),
        zeros=zeros,
        not_finite=not_finite,
        gradient_std=math.sqrt(gradient_variance + gradient_mean**2),
        dead=seen.answers == {False},
    )


def _numbers(tensor: Tensor) -> Numbers:
    exact = tensor.detach().double()
    variance, mean = torch.var_mean(exact, correction=0)
    zeros, not_finite = (exact == 0).double().mean(), (~exact.isfinite()).double().mean()
    return exact.numel(), float(mean), float(variance), float(zeros), float(not_finite)


def _together(several: list[Numbers]) -> tuple[float, float, float, float]:
    """Return mean, variance and shares of the elements of several tensors; NaN where there are none."""
    counts, means, variances, zeros, not_finite = np.array(several or [_NOTHING]).T
    weights = counts / counts.sum()
    mean = float(weights @ means)
    variance = weights @ (variances + (means - mean) ** 2)
    return mean, float(variance), float(weights @ zeros), float(weights @ not_finite)


def _has_parameters(module: nn.Module) -> bool:
    own = (parameter is not None for parameter in module._parameters.values())
    return any(own) or "parametrizations" in module._modules


def _carries(tensor: Tensor) -> bool:
    """Return whether a tensor differs over the batch, its first dimension; over a batch of one, from zero."""
    is_batch = tensor.ndim > 0 and len(tensor) > 1
    return bool((tensor != (tensor[:1] if is_batch else 0)).any())


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested and value.numel():
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(each)


def floats_in(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output; where one is called `loss`, that alone."""
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        output = output["loss"]
    return [each for each in _tensors_in(output) if each.is_floating_point()]
