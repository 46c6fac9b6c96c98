"""What a model's constructor makes: the model is made anew from its config, without memory for what is drawn.

transformers' and diffusers' models keep the config that they were made from. No other package is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convinit_ext.distributions import Constant, Distribution
from convinit_ext.recipes._derived import Preset
from convinit_ext.recipes._foreign_code import Drawings, WhereMeta, drawing, generators
from convinit_ext.recipes._target import Target

# Made on the meta device: what comes later is not known, and costs nothing.
_UNKNOWN = {
    torch.empty,
    torch.empty_like,
    torch.Tensor.new_empty,
    torch.rand,
    torch.rand_like,
    torch.randn,
    torch.randn_like,
}


@dataclass(frozen=True, slots=True)
class _Made:
    """A model as its constructor makes it, once more so, and by id the distributions of what it draws."""

    model: nn.Module
    twin: nn.Module
    drawn: dict[int, Distribution]


_made: ContextVar[dict[int, _Made | None] | None] = ContextVar("_made", default=None)


@contextmanager
def made_once() -> Iterator[None]:
    """Make each model anew once only inside the block."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def constructed(module: nn.Module, parents: Sequence[nn.Module]) -> tuple[nn.Module, nn.Module] | None:
    """Return a module as the constructor of a model around it makes it, twice; None if none can be called.

    What differs is drawn. Parameters and buffers of the first that the constructor leaves empty or draws are
    on the meta device.
    """
    return next(((one, two) for one, two, _ in _each_made(module, parents)), None)


def constructed_start(target: Target) -> Distribution | Preset | None:
    """Return what the constructor of a model around a parameter starts it from; None where nobody knows."""
    module, _, made = next(_each_made(target.module, target.parents), (None, None, None))
    held = None if module is None else module._parameters.get(target.parameter)
    if held is None or made is None or held.shape != target.tensor.shape:
        return None
    if held.is_meta:
        return made.drawn.get(id(held))
    values = held.detach()
    is_constant = values.numel() and values.eq(values.flatten()[0]).all()
    return Constant(float(values.flatten()[0])) if is_constant else Preset(values)


def is_frozen_when_made(target: Target) -> bool:
    """Whether the constructor of a model around a parameter freezes it."""
    made = _each_made(target.module, target.parents)
    each = (module._parameters.get(target.parameter) for module, _, _ in made)
    return any(held is not None and not held.requires_grad for held in each)


def _each_made(
    module: nn.Module, parents: Sequence[nn.Module]
) -> Iterator[tuple[nn.Module, nn.Module, _Made]]:
    """Yield a module as the constructor of each model around it makes it, and once more; innermost first."""
    around = [*parents, module]
    for at in reversed(range(len(around))):
        made = _model(around[at])
        if made is None:
            continue
        one, two = _inside(made.model, around[at:]), _inside(made.twin, around[at:])
        if one is not None and two is not None and type(one) is type(module):
            yield one, two, made


def _inside(made: nn.Module, path: Sequence[nn.Module]) -> nn.Module | None:
    """Return the module of a model that is made anew which has the place of the last one in another's."""
    found: nn.Module | None = made
    for outer, inner in pairwise(path):
        name = next((name for name, each in outer._modules.items() if each is inner), "")
        found = found._modules.get(name) if found is not None else None
    return found


def _model(module: nn.Module) -> _Made | None:
    known = _made.get()
    if known is None:
        return _make_anew(module)
    if id(module) not in known:
        known[id(module)] = _make_anew(module)
    return known[id(module)]


def _make_anew(module: Any) -> _Made | None:
    kind = type(module)
    packages = {each.__module__.partition(".")[0] for each in kind.__mro__}
    is_of_diffusers = "diffusers" in packages and hasattr(kind, "from_config")
    is_of_transformers = "transformers" in packages and hasattr(kind, "_from_config")
    if not (is_of_diffusers or is_of_transformers) or not hasattr(module, "config"):
        return None

    def make() -> Any:
        config = copy.deepcopy(module.config)
        return kind.from_config(config) if is_of_diffusers else kind(config)

    drawings = Drawings()
    try:
        with drawing(), _Unfilled(), WhereMeta(drawings.forget), drawings:
            before = generators()
            made = make()
            other = make() if generators() != before else made
        return _Made(made, other, _forget_drawn(made, other, drawings))
    except Exception:  # foreign code
        return None


def _forget_drawn(made: nn.Module, other: nn.Module, drawings: Drawings) -> dict[int, Distribution]:
    """Put on the meta device what differs between two models that were made alike, or holds no numbers.

    Returns by id the distributions of those on the meta device that are known.
    """
    drawn = {}
    for one, two in zip(made.modules(), other.modules(), strict=True):
        pairs: Any = ((one._parameters, two._parameters), (one._buffers, two._buffers))
        for mine, others in pairs:
            for leaf, each in list(mine.items()):
                if each is None:
                    continue
                found = drawings.of(each)
                if not _is_same(each, others[leaf]):
                    held = torch.empty_like(each, device="meta")
                    mine[leaf] = nn.Parameter(held, each.requires_grad) if mine is one._parameters else held
                if found is not None:
                    drawn[id(mine[leaf])] = found
    return drawn


def _is_same(a: Tensor, b: Tensor | None) -> bool:
    if a.is_meta:
        return True
    return b is not None and torch.equal(a, b) and not (a.is_floating_point() and a.isnan().any())


class _Unfilled(TorchFunctionMode):
    """Keeps memory that nothing is written to, and random values, on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **{**kwargs, "device": "meta"} if func in _UNKNOWN else kwargs)
