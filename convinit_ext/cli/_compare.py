"""The same model initialised by this package and by torch.nn.init, in turns: medians and ratios."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from convinit_ext.distributions import Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.model import Options, init_model_, make_plan, size_text, table
from convinit_ext.recipes import TORCH, Recipe, Rule, as_recipe

COLD = "cold: construct, and fill new memory"
WARM = "warm: fill again in place"
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Case:
    """One way to initialise the model, by both: seconds of every repeat."""

    name: str
    num_bytes: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.theirs) / statistics.median(self.ours)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both cases; prints as a table."""

    cases: tuple[Case, ...]

    def to_dict(self) -> dict[str, object]:
        """Every measurement in seconds, and the ratio of the medians."""
        return {"cases": [asdict(case) | {"ratio": case.ratio} for case in self.cases]}

    def __str__(self) -> str:
        header = ("", "convinit_ext", "torch.nn.init", "ratio")
        rows = [(case.name, *_shown(case), f"{case.ratio:.1f}x") for case in self.cases]
        return "\n".join(table(header, rows, num_left=1))


def compare(
    build: Callable[[], nn.Module],
    seed: int,
    recipe: str | Recipe | Sequence[Rule],
    dtype: torch.dtype | None,
    repeats: int,
    on_meta: bool = True,
    device: torch.device = _CPU,
) -> Comparison:
    """Time both in turns, `repeats` times. Only one model is in memory at a time.

    Args:
        build: makes the model as its user does, initialised by PyTorch.
        seed: of this package's values.
        recipe: what both fill the model with.
        dtype: of both; None is the model's own.
        repeats: of everything.
        on_meta: whether this package's way starts from a meta model.
        device: where the parameters go, and where PyTorch's way constructs them.
    """
    timed = functools.partial(_timed, device=device)
    seconds: dict[str, list[float]] = {
        name: [] for name in ("ours cold", "theirs cold", "ours warm", "theirs warm")
    }
    num_bytes = 0
    for _ in range(repeats):
        with timed(seconds["ours cold"]):
            model = construct(build, on_meta, device)
            num_bytes = init_model_(model, seed, recipe, device, dtype).num_bytes
        with timed(seconds["ours warm"]):
            init_model_(model, seed, recipe)
        fill = _fill_of_torch(model, recipe)
        with timed(seconds["theirs warm"]):
            fill()
        del model, fill
        with timed(seconds["theirs cold"]), device if device != _CPU else contextlib.nullcontext():
            _usual_way(build, recipe, dtype)
    return Comparison(
        (
            Case(COLD, num_bytes, tuple(seconds["ours cold"]), tuple(seconds["theirs cold"])),
            Case(WARM, num_bytes, tuple(seconds["ours warm"]), tuple(seconds["theirs warm"])),
        )
    )


def construct(build: Callable[[], nn.Module], on_meta: bool, device: torch.device = _CPU) -> nn.Module:
    """The model without memory for its parameters, or with, on the device."""
    with torch.device("meta" if on_meta else device):
        return build()


def wait_for(device: torch.device) -> None:
    """What a clock does before it is read: a GPU works on after the calls have returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _timed(seconds: list[float], device: torch.device) -> Iterator[None]:
    wait_for(device)
    started = time.perf_counter()
    yield
    wait_for(device)
    seconds.append(time.perf_counter() - started)


def _usual_way(
    build: Callable[[], nn.Module], recipe: str | Recipe | Sequence[Rule], dtype: torch.dtype | None
) -> None:
    """Constructing fills with PyTorch's defaults; another recipe is a second pass over the parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        model = build()
    finally:
        torch.set_default_dtype(before)
    if as_recipe(recipe) is not TORCH:
        _fill_of_torch(model, recipe)()


def _fill_of_torch(model: nn.Module, recipe: str | Recipe | Sequence[Rule]) -> Callable[[], None]:
    """What a user of PyTorch runs: every reset_parameters, or torch.nn.init on every parameter."""
    if as_recipe(recipe) is TORCH:
        return lambda: _reset(model)
    rows = make_plan(model, 0, Options(recipe)).rows
    drawn = ((row.tensor, row.distribution) for row in rows)  # torch.nn.init has nothing for other values
    fills = [(tensor, distribution) for tensor, distribution in drawn if distribution is not None]
    return lambda: _fill_each(fills)


def _reset(model: nn.Module) -> None:
    for module in reversed(list(model.modules())):  # a Transformer draws its own values after its layers did
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()


def _fill_each(fills: Sequence[tuple[Tensor, Distribution]]) -> None:
    for tensor, distribution in fills:
        if isinstance(distribution, Uniform):
            nn.init.uniform_(tensor, distribution.low, distribution.high)
        elif isinstance(distribution, Normal):
            nn.init.normal_(tensor, distribution.mean, distribution.std)
        elif isinstance(distribution, TruncatedNormal):
            nn.init.trunc_normal_(tensor, *distribution.params)
        else:
            nn.init.constant_(tensor, distribution.params[0])


def _shown(case: Case) -> tuple[str, str]:
    ours, theirs = (
        f"{seconds:.3f} s  {size_text(case.num_bytes / seconds)}/s"
        for seconds in (statistics.median(case.ours), statistics.median(case.theirs))
    )
    return ours, theirs
