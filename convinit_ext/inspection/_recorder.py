"""What goes through a model's layers, forwards and backwards: hooks on them, and sums of what these see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convinit_ext.inspection._result import LayerRow
from convinit_ext.model import walk


class Moments(NamedTuple):
    """Of one tensor: number of elements, mean, variance, how many are zero, how many are not finite."""

    number: int
    mean: float
    variance: float
    zeros: int = 0
    not_finite: int = 0

    @property
    def power(self) -> float:
        """The mean square."""
        return self.variance + self.mean**2

    @classmethod
    def of(cls, tensor: Tensor) -> Moments:
        exact = tensor.detach().double()
        variance, mean = torch.var_mean(exact, correction=0)
        zeros = exact.numel() - int(exact.count_nonzero())
        return cls(exact.numel(), float(mean), float(variance), zeros, int((~exact.isfinite()).sum()))

    @classmethod
    def together(cls, several: list[Moments]) -> Moments:
        """Return those of all elements of some tensors; NaN where there are none."""
        number = sum(each.number for each in several)
        if not number:
            return cls(0, math.nan, math.nan)
        mean = sum(each.mean * each.number for each in several) / number
        variance = sum((each.variance + (each.mean - mean) ** 2) * each.number for each in several) / number
        zeros, not_finite = (sum(numbers) for numbers in list(zip(*several, strict=True))[3:])
        return cls(number, mean, variance, zeros, not_finite)


@dataclass(slots=True, eq=False)
class _Seen:
    """What a layer's calls have shown so far."""

    calls: int = 0
    shape: tuple[int, ...] = ()
    inputs: list[Moments] = field(default_factory=list)
    outputs: list[Moments] = field(default_factory=list)
    gradients: list[Moments] = field(default_factory=list)
    answers: set[bool] = field(default_factory=set)  # whether outputs differed, where the inputs did


class Recorder:
    """Watches the layers of a model: modules without children, or with parameters of their own.

    Args:
        model: which stays watched, so a copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[str, _Seen] = {}
        self._pending: list[tuple[Moments | None, bool]] = []
        self._modules: dict[str, nn.Module] = {}
        for node in walk.modules(model):
            module = node.module
            is_parametrization = "parametrizations" in node.path.split(".")
            is_leaf = not module._modules.keys() - {"parametrizations"}
            if is_parametrization or not (is_leaf or _has_parameters(module)):
                continue
            name = walk.canonical(node.canonical) if node.canonical else "(model)"
            self._modules[name] = module
            module.register_forward_pre_hook(self._before, with_kwargs=True)
            module.register_forward_hook(
                lambda module, args, kwargs, output, name=name: self._after(name, module, output),
                with_kwargs=True,
            )

    def clear(self) -> None:
        self._seen.clear()
        self._pending.clear()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Look at a layer's input before a call, which may overwrite it."""
        tensor = next(_tensors_in((args, kwargs)), None)
        is_float = tensor is not None and tensor.is_floating_point() and tensor.numel() > 0
        self._pending.append(
            (Moments.of(tensor) if tensor is not None and is_float else None, _varies(tensor) is True)
        )

    def _after(self, name: str, module: nn.Module, output: Any) -> None:
        before, input_varies = self._pending.pop()
        seen = self._seen.setdefault(name, _Seen())
        seen.calls += 1
        tensor = next(iter(floats_in(output)), None)
        if tensor is None:
            return
        seen.shape = tuple(tensor.shape)
        seen.outputs.append(Moments.of(tensor))
        if before is not None:
            seen.inputs.append(before)
        varies = _varies(tensor)
        if input_varies and varies is not None:
            seen.answers.add(varies)
        if tensor.requires_grad:
            gradients = seen.gradients
            hook: Any = tensor.register_hook
            hook(lambda gradient: gradients.append(Moments.of(gradient)))

    def rows(self, recipe: str) -> list[LayerRow]:
        """Return a row for each layer that was called, in the order of the first calls."""
        return [self._row(recipe, name, seen) for name, seen in self._seen.items()]

    def _row(self, recipe: str, name: str, seen: _Seen) -> LayerRow:
        module = self._modules[name]
        outputs, inputs, gradients = map(Moments.together, (seen.outputs, seen.inputs, seen.gradients))
        return LayerRow(
            recipe,
            name,
            type(module).__name__,
            seen.calls,
            seen.shape,
            _has_parameters(module),
            math.sqrt(inputs.variance),
            outputs.mean,
            math.sqrt(outputs.variance),
            outputs.zeros / outputs.number if outputs.number else math.nan,
            outputs.not_finite / outputs.number if outputs.number else math.nan,
            math.sqrt(gradients.power),
            seen.answers == {False},
        )


def _has_parameters(module: nn.Module) -> bool:
    return any(x is not None for x in module._parameters.values()) or "parametrizations" in module._modules


def _varies(tensor: Tensor | None) -> bool | None:
    """Return whether a tensor differs along its first dimension; None if that is of one, or none."""
    if tensor is None or not tensor.ndim or len(tensor) < 2 or not tensor.numel():
        return None
    return bool((tensor != tensor[:1]).any())


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors_in(each)


def floats_in(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output; where one is called `loss`, that alone."""
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        output = output["loss"]
    return [each for each in _tensors_in(output) if each.is_floating_point() and each.numel()]
