"""What a model's constructor makes: the model is made anew from its config, without memory for what is drawn.

transformers' and diffusers' models keep the config that they were made from. No other package is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convinit_ext.recipes._derived import drawing, generators

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
_made: ContextVar[dict[int, nn.Module | None] | None] = ContextVar("_made", default=None)


@contextmanager
def made_once() -> Iterator[None]:
    """Make each model anew once only inside the block."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def constructed(module: nn.Module, parents: Sequence[nn.Module]) -> nn.Module | None:
    """Return a module as the constructor of a model around it makes it; None if none can be called.

    Parameters and buffers that the constructor leaves empty or draws are on the meta device.
    """
    around = [*parents, module]
    for at in reversed(range(len(around))):
        found = _model(around[at])
        for outer, inner in pairwise(around[at:]):
            name = next((name for name, each in outer._modules.items() if each is inner), "")
            found = found._modules.get(name) if found is not None else None
        if type(found) is type(module):
            return found
    return None


def _model(module: nn.Module) -> nn.Module | None:
    known = _made.get()
    if known is None or id(module) not in known:
        found = _make_anew(module)
        if known is None:
            return found
        known[id(module)] = found
    return known[id(module)]


def _make_anew(module: Any) -> nn.Module | None:
    kind = type(module)
    packages = {each.__module__.partition(".")[0] for each in kind.__mro__}
    is_of_diffusers = "diffusers" in packages and hasattr(kind, "from_config")
    is_of_transformers = "transformers" in packages and hasattr(kind, "_from_config")
    if not (is_of_diffusers or is_of_transformers) or not hasattr(module, "config"):
        return None

    def make() -> Any:
        config = copy.deepcopy(module.config)
        return kind.from_config(config) if is_of_diffusers else kind(config)

    try:
        with drawing(), _Unfilled():
            before = generators()
            made = make()
            if generators() != before:
                _forget_drawn(made, make())
    except Exception:  # foreign code
        return None
    return made  # type: ignore[no-any-return]  # foreign code says what it is


def _forget_drawn(made: nn.Module, other: nn.Module) -> None:
    """Put on the meta device what differs between two models that were made alike."""
    for one, two in zip(made.modules(), other.modules(), strict=True):
        pairs: Any = ((one._parameters, two._parameters), (one._buffers, two._buffers))
        for mine, others in pairs:
            for leaf, each in list(mine.items()):
                if each is not None and not _is_same(each, others[leaf]):
                    held = torch.empty_like(each, device="meta")
                    mine[leaf] = nn.Parameter(held, each.requires_grad) if mine is one._parameters else held


def _is_same(a: Tensor, b: Tensor | None) -> bool:
    return a.is_meta or (b is not None and torch.equal(a, b))


class _Unfilled(TorchFunctionMode):
    """Keeps memory that nothing is written to, and random values, on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **{**kwargs, "device": "meta"} if func in _UNKNOWN else kwargs)
