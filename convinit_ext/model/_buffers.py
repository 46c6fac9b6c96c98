"""Buffers: what becomes of each when its model is initialised, and which ones nobody can rebuild."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from convinit_ext import keys
from convinit_ext._engine import check_places, ops
from convinit_ext.distributions import Constant, Distribution, Uniform
from convinit_ext.init import orthogonal_
from convinit_ext.keys import Key
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model import _offered as offered
from convinit_ext.model import _parametrize as parametrized
from convinit_ext.model import _spectral as spectral
from convinit_ext.model._fillings import check_range
from convinit_ext.model._named_tensors import Held, Node
from convinit_ext.recipes import (
    Orthogonal,
    Preset,
    Rule,
    Target,
    check_converts,
    check_given,
    is_distribution,
    is_values,
)
from convinit_ext.sharding import copy_whole_, is_dtensor, local_of, parts

# A module type, and the constant that each of its buffers starts from (as its reset_running_stats does).
STARTS: tuple[tuple[type[nn.Module], dict[str, float]], ...] = (
    (_NormBase, {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}),
)

# What a buffer starts from: given values, or a distribution that the engine draws them of.
Start: TypeAlias = Tensor | Distribution | Orthogonal


@dataclass(frozen=True, slots=True, eq=False)
class BufferRow:
    """A buffer that changes: it starts anew from `start`, or (None) keeps its values in the model's dtype.

    Args:
        held: the buffer, and every place that holds it.
        key: the name that makes the key of values that are drawn.
        start: what its values become.
        dtype: of the values, once there.
        device: likewise.
    """

    held: Held
    key: str
    start: Start | None
    dtype: torch.dtype
    device: torch.device

    @property
    def fresh(self) -> bool:
        """Whether it needs new memory: a meta buffer, or another dtype."""
        return self.held.tensor.is_meta or self.held.tensor.dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        """Of what this process holds."""
        return local_of(self.held.tensor).numel() * self.dtype.itemsize

    def new(self, seed: int) -> Tensor:
        """The buffer's values in new memory."""
        if self.start is None:
            return self.held.tensor.to(self.dtype)
        memory = torch.empty_like(self.held.tensor, dtype=self.dtype, device=self.device)
        return self.write_(memory, seed)

    def write_(self, memory: Tensor, seed: int) -> Tensor:
        """Its values into memory of its shape."""
        if isinstance(self.start, Constant):
            return memory.fill_(self.start.value)
        if not isinstance(self.start, Tensor | Orthogonal):
            self._draw_(memory, seed)
            return memory
        values = self.start
        if isinstance(values, Orthogonal):
            exact = torch.float64 if self.dtype == torch.float64 else torch.float32
            matrix = torch.empty(memory.shape, dtype=exact, device=memory.device)
            values = orthogonal_(matrix, key=Key(seed, self.key))
        if not is_dtensor(memory):
            return memory.copy_(values)
        copy_whole_(memory, values)
        return memory

    def _draw_(self, memory: Tensor, seed: int) -> None:
        assert is_distribution(self.start)
        held = parts(memory)
        if held:
            words = keys.of_names(seed, [self.key] * len(held))
            boxes = [part.box(memory.shape) for part in held]
            ops.fill_([part.tensor for part in held], words, [self.start] * len(held), boxes)


def buffer_rows(
    nodes: Iterable[Node],
    rules: Sequence[Rule],
    dtype: torch.dtype | None,
    device: torch.device,
    chooses: Callable[[Held], bool] | None = None,
    key_of: Callable[[str], str] = str,
) -> tuple[BufferRow, ...]:
    """The buffers that initialising a model of these modules changes.

    Args:
        nodes: of walk.modules().
        rules: those that are for buffers count, before everything else.
        dtype: of floating-point buffers afterwards; None leaves each its own.
        device: where meta buffers go.
        chooses: whether a buffer is to change at all; None is all of them.
        key_of: the name that makes a buffer's key, of its canonical one.

    Raises:
        ValueError: meta buffers that nobody knows how to rebuild; all of them are named. A rule for buffers
            that does not fit one.
    """
    rules = [rule for rule in rules if rule.buffer is not None]
    offers = offered.Offers()
    rows, lost = [], []
    for held in walk.buffers(nodes):
        if chooses is not None and not chooses(held):
            continue
        tensor, start = held.tensor, _start(held, rules)
        if tensor.is_meta and start is None:
            start = offers.of(held) if tensor.numel() else Constant(0.0)
        if tensor.is_meta and start is None:
            lost.append(f"{held.path} {list(tensor.shape)} of {type(held.node.module).__name__}")
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        if start is not None:
            spectral.check_settles(held, wanted)
            if is_dtensor(tensor):
                _check_placed(held)
            if rules:
                if isinstance(start, Constant | Uniform) and wanted.is_floating_point:
                    check_range(start, wanted, f"buffer {held.path!r}")
                _check_fits(held, start, wanted)
        if start is not None and not (tensor.is_meta or wanted != tensor.dtype):
            _check_writable(held, not isinstance(start, Tensor | Constant | Orthogonal))
        if start is not None or tensor.is_meta or wanted != tensor.dtype:
            key = key_of(walk.canonical(held.name))
            rows.append(BufferRow(held, key, start, wanted, device if tensor.is_meta else tensor.device))
    if lost:
        raise ValueError(
            f"nobody can know the values of {len(lost)} buffer{'s' * (len(lost) > 1)} on the meta device:\n  "
            + "\n  ".join(lost)
            + "\nSay them by rules, recipe=[Rule(lambda target: values, buffer=...), *TORCH], assign them "
            "before, or build the model on the CPU"
        )
    return tuple(rows)


def known_rows(
    nodes: Iterable[Node],
    rules: Sequence[Rule],
    dtype: torch.dtype | None,
    device: torch.device,
    chooses: Callable[[Held], bool] | None = None,
    key_of: Callable[[str], str] = str,
) -> tuple[BufferRow, ...]:
    """A row for every buffer, for a look at a model: whatever it is, nothing is refused.

    `start` is what initialising leaves in it, None where that is not known: those that keep their values, and
    the vectors of spectral_norm, which the power method has made of the weight. The arguments are those of
    buffer_rows.
    """
    rules = [rule for rule in rules if rule.buffer is not None]
    rows = []
    for held in walk.buffers(nodes):
        if chooses is not None and not chooses(held):
            continue
        start = _start(held, rules)
        if start is not None and spectral.is_vector(held):
            start = None
        wanted = dtype if dtype is not None and held.tensor.is_floating_point() else held.tensor.dtype
        rows.append(BufferRow(held, key_of(walk.canonical(held.name)), start, wanted, device))
    return tuple(rows)


def _check_placed(held: Held) -> None:
    """Of a DTensor: that each process knows its part, and needs no more."""
    if spectral.is_vector(held):
        raise ValueError(
            f"buffer {held.path!r}: it is a DTensor, and spectral_norm needs the whole; initialise the model "
            "before it is sharded"
        )
    try:
        parts(held.tensor)
    except (RuntimeError, TypeError) as error:
        raise type(error)(f"buffer {held.path!r}: {error}") from error


def _check_writable(held: Held, is_drawn: bool) -> None:
    if not walk.has_memory(held.tensor):
        return  # PyTorch's own way to write it is all there is
    try:
        check_places(local_of(held.tensor))
    except RuntimeError as error:
        raise RuntimeError(f"buffer {held.path!r}: {error}") from error
    if held.tensor.is_neg() and is_drawn:
        raise ValueError(
            f"buffer {held.path!r}: cannot draw values for a view that shows its memory negated (is_neg()); "
            "accepted is its resolve_neg()"
        )


def _check_fits(held: Held, start: Start, dtype: torch.dtype) -> None:
    """That a buffer can be given what a rule says, as PyTorch and the engine find out by two elements.

    Raises:
        TypeError: a buffer that is not dense, or complex values for a real one.
        ValueError: values that its dtype cannot hold.
    """
    tensor, about = held.tensor, f"buffer {held.path!r}"
    if tensor.is_quantized or tensor.layout is not torch.strided:
        kind = f"quantised tensor ({tensor.dtype})" if tensor.is_quantized else f"{tensor.layout} tensor"
        raise TypeError(f"{about}: no rule can fill a {kind}; accepted is a dense tensor")
    if isinstance(start, Tensor) and start.is_complex() and not dtype.is_complex:
        raise TypeError(f"{about}: the rule's values are complex, and accepted are real ones")
    try:
        if isinstance(start, Tensor):
            check_converts(start.dtype, dtype)
        elif not isinstance(start, Orthogonal):
            elements = torch.empty(2, dtype=dtype, device="cpu")  # of one alone PyTorch asks less
            BufferRow(held, "", start, dtype, elements.device).write_(elements, 0)
    except RuntimeError as error:  # NotImplementedError too
        said = f"values of {start.dtype}" if isinstance(start, Tensor) else str(start)
        raise ValueError(f"{about}: {dtype} cannot hold {said}, which its rule says: {error}") from error


def _start(held: Held, rules: Sequence[Rule]) -> Start | None:
    """What a rule says, otherwise what torch.nn does."""
    module, leaf = held.places[0]
    if rules:
        target = Target(walk.canonical(held.name), leaf, held.tensor, module, held.node.parents)
        for rule in rules:
            if rule.matches_buffer(target):
                return _said(rule, target)
    for kind, values in STARTS:
        if isinstance(module, kind) and leaf in values:
            return Constant(values[leaf])
    return parametrized.drawn_start(held)


def _said(rule: Rule, target: Target) -> Start:
    """What a rule says of a buffer."""
    about = f"buffer {target.name!r}, {rule.text}"
    try:
        values = rule.init if is_values(rule.init) else rule.init(target)
    except TypeError as error:
        raise TypeError(f"{about}: {error}") from error
    except AttributeError as error:  # of a function that knows only some modules
        raise AttributeError(f"{about}: {error}") from error
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{about}: {error}") from error
    values = values.tensor if isinstance(values, Preset) else values
    if isinstance(values, Tensor):
        return _checked(values, target.tensor, about)
    if not is_distribution(values):
        raise TypeError(f"{about}: must be a distribution or a tensor, not {values!r}")
    if not isinstance(values, Constant) and target.tensor.dtype not in ops.SUPPORTED_DTYPES:
        raise TypeError(f"{about}: cannot draw values of {target.tensor.dtype}")
    return values


def _checked(values: Tensor, buffer: Tensor, about: str) -> Tensor:
    """The tensor that a rule gives for a buffer."""
    if values.is_meta:
        raise ValueError(f"{about}: a tensor on the meta device, which has no values")
    try:
        check_given(values, buffer)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{about}: {error}") from error
    if is_dtensor(values):
        raise TypeError(f"{about}: a DTensor; accepted is the whole tensor; each process takes its part")
    if values.layout is not torch.strided:
        raise TypeError(f"{about}: a {values.layout} tensor; accepted is a dense one")
    if values.shape != buffer.shape:
        raise ValueError(f"{about}: has shape {list(values.shape)}, not {list(buffer.shape)}")
    return values.detach()
