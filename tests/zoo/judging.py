"""Comparing what a recipe makes of a model with what the model's own library does: right, listed or wrong."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from convinit_ext import init_model_

Values = dict[str, Tensor]


@dataclass
class Verdict:
    """What a recipe did to a model: `error` where it refused, and what is wrong of each parameter and buffer."""

    error: str = ""
    wrong: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def word(self) -> str:
        return "wrong" if self.wrong else "listed" if self.error else "right"


@dataclass
class Library:
    """A model as its library makes it, twice, by two seeds."""

    build: Callable[[], nn.Module]
    first: tuple[Values, Values]
    second: tuple[Values, Values]
    model: nn.Module
    skip: frozenset[str] = frozenset()

    @classmethod
    def of(cls, build: Callable[[], nn.Module]) -> Library:
        torch.manual_seed(0)
        first = values_of(build())
        torch.manual_seed(1)
        model = build()
        return cls(build, first, values_of(model), model)

    def kind(self, name: str, buffer: bool = False) -> str:
        """Whether the library makes it constant, fixed (a table) or drawn."""
        a, b = self.first[buffer][name], self.second[buffer][name]
        if not same(a, b):
            return "drawn"
        return "constant" if is_constant(a) else "fixed"


def values_of(model: nn.Module) -> tuple[Values, Values]:
    """Copy a model's parameters and buffers."""
    held = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    first, second = ({name: each.detach().clone() for name, each in pairs} for pairs in held)
    return first, second


def same(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
        if a.is_floating_point()
        else torch.equal(a, b)
    )


def is_constant(tensor: Tensor) -> bool:
    return not tensor.numel() or bool((tensor == tensor.flatten()[0]).all())


def judged(library: Library, recipe: object, meta: bool) -> Verdict:
    """Initialise a model with a recipe, on the meta device or in memory, and judge each value."""
    if meta:
        with torch.device("meta"):
            model = library.build()
    else:
        model = library.model
    verdict = Verdict()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                init_model_(model, seed=3, recipe=recipe)
            except ValueError as error:
                if "frozen (requires_grad" not in str(error) or meta:
                    raise
                verdict.counts["asked"] += 1
                init_model_(model, seed=3, recipe=recipe, frozen="keep")
    except ValueError as error:
        verdict.error = str(error)
        return verdict
    for name, what in _faults(library, model, verdict.counts):
        verdict.wrong[name] = what
    return verdict


def _faults(library: Library, model: nn.Module, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters, buffers = values_of(model)
    for name, value in parameters.items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        if value.is_meta:
            yield name, "still on the meta device"
            continue
        if not value.isfinite().all():
            yield name, "not finite"
        word = _compared(library, name, leaf, value, module)
        counts[word] += 1
        if word.startswith("!"):
            a = library.first[0][name].float()
            yield (
                name,
                f"{word[1:]}; {type(module).__name__} {list(value.shape)}, library {_shown(a)}, here {_shown(value.float())}",
            )
        row = getattr(module, "padding_idx", None)
        if (
            leaf == "weight"
            and isinstance(row, int)
            and isinstance(module, nn.Embedding)
            and value[row].any()
        ):
            yield name, "padding row is not zero"
    for name, value in buffers.items():
        if name not in library.first[1]:
            continue
        if value.is_meta:
            yield name, "buffer still on the meta device"
        elif library.kind(name, buffer=True) != "drawn" and not same(value, library.first[1][name]):
            a = library.first[1][name]
            yield (
                name,
                f"buffer differs: {list(value.shape)} {value.dtype}, library {a.dtype} {_shown(a.double())}, here {_shown(value.double())}",
            )


def _shown(x: Tensor) -> str:
    if is_constant(x):
        return f"{x.flatten()[0].item():.4g}" if x.numel() else "empty"
    return f"mean {x.mean().item():.3g} std {x.std().item():.3g}"


def _compared(library: Library, name: str, leaf: str, value: Tensor, module: nn.Module) -> str:
    """Return a word for what became of a parameter; with ! before it where it is wrong."""
    kind, own = library.kind(name), library.first[0][name]
    if same(value, own) and kind != "drawn":
        return "same"
    is_bias = leaf == "bias" or leaf.endswith("_bias") or leaf.startswith("bias_")
    if "norm" in type(module).__name__.lower() and leaf == "weight" and value.eq(1).all():
        return "gain one"  # also where the library starts a branch from zero, or draws gains
    if is_constant(value):
        zero = not value.any()
        if leaf == "bias" and zero:
            return "bias zero"
        if kind == "drawn" and is_bias and zero:
            return "bias zero"
        return f"!{kind}, here constant"
    if kind == "constant":
        if value.ndim >= 2 and not own.any():
            return "zero at birth"
        return "bias drawn" if is_bias and value.ndim == 1 else "!constant, here drawn"
    if is_bias and value.ndim == 1:
        return "bias drawn"
    if kind == "fixed":
        return "!fixed"
    return "drawn"
