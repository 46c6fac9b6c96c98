"""Buffers: what becomes of each when its model is initialised, and which ones nobody can rebuild."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel

from convinit_ext._engine import SUPPORTED_DTYPES, check_tensor, in_fake_mode, is_plain, listed, naming
from convinit_ext.distributions import Constant, Distribution, Uniform
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._before import is_written
from convinit_ext.model._filling import check_range, said
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._names import take_modules
from convinit_ext.model._offers import Offers
from convinit_ext.model._options import Options
from convinit_ext.model._parametrize import check_spectral, settle, start_of, target_of_buffer, vectors_of
from convinit_ext.model._plan import Row, by_memory
from convinit_ext.model._values import Same, Values, values_of
from convinit_ext.recipes import (
    ONES,
    ZEROS,
    Orthogonal,
    Preset,
    Redrawn,
    Rule,
    initialiser_text,
    is_distribution,
)
from convinit_ext.sharding import Part, is_dtensor, is_partial, local_of, logical, parts

# A module type, and the constant that each of its buffers starts from (as its reset_running_stats does).
_STARTS: tuple[tuple[type[nn.Module], dict[str, Constant]], ...] = (
    (_NormBase, {"running_mean": ZEROS, "running_var": ONES, "num_batches_tracked": ZEROS}),
    (AveragedModel, {"n_averaged": ZEROS}),
)

# What a buffer starts from: given values, how to make them, or a distribution that the engine draws them of.
_Start: TypeAlias = Preset | Distribution | Orthogonal | Redrawn


def buffer_rows(
    nodes: Sequence[NamedModule],
    parameters: Sequence[Row],
    options: Options,
    device: torch.device,
    chooses: Callable[[NamedTensor], bool],
    key_of: Callable[[str], str],
    is_new: bool,
) -> tuple[tuple[Row, ...], list[str]]:
    """Return the buffers that initialising a model changes, and meta ones that nobody knows how to rebuild.

    Those that are rebuilt go to this device. The recipe's rules for buffers count before everything else;
    ValueError says that one does not fit. A plan for reading has a row for every buffer and refuses nothing;
    its values are None where nobody knows what initialising leaves there: of those that keep their values,
    and of spectral_norm's vectors. `is_new` says that nobody has written to any parameter.
    """
    rules = [rule for rule in options.recipe.rules if rule.buffer is not None]
    offers, lost, left = Offers(), [], []
    rows: list[Row] = []
    buffers = walk.buffers(nodes)
    take_modules(buffers, options.like, buffers=True)
    for held in filter(chooses, buffers):
        tensor, start, dtype = held.tensor, _start(held, rules), options.dtype_of(held)
        if options.reading:
            start = None if vectors_of(held) else start
        elif start is None and tensor.is_meta:
            start = offers.of(held) if tensor.numel() else ZEROS
            if start is None:
                lost.append(held.described)
        elif start is None:
            is_unsaid = is_new and not is_written(tensor)
            if (is_unsaid or not held.persistent) and _is_readable(tensor):
                offered = offers.of(held)
                is_same = isinstance(offered, Preset) and _is_same(tensor, offered.tensor)
                # What a state dict has may have been trained, and is never overwritten.
                start = None if held.persistent or is_same else offered
                if start is None and is_unsaid and not is_same:
                    left.append(held.path)
        if isinstance(start, Preset) and is_partial(tensor) and not start.tensor.any():
            start = ZEROS  # every term of such a sum is zero
        if not options.reading and start is not None:
            _check(held, start, dtype, bool(rules))
        if options.reading or start is not None or tensor.is_meta or dtype != tensor.dtype:
            name, place = walk.canonical(held.name), device if tensor.is_meta else tensor.device
            planned = None if start is None else _values(start, key_of(name), tuple(tensor.shape))
            text = initialiser_text(start) if options.reading and start is not None else ""
            rows.append(Row(name, (held,), planned, text, None, dtype, place, is_buffer=True))
    if left:
        warnings.warn(
            "no write to a parameter has been counted, as after to_empty(), in copies and where code writes "
            f"to .data; these buffers, which nobody can rebuild, keep what they hold: {listed(left)}; after "
            "to_empty() assign them, or say them by rules: Rule(..., buffer=...)",
            stacklevel=2,
        )
    if not options.reading:
        settle(rows, parameters)
        if options.dtype is not None:
            _check_not_left_behind(buffers, parameters)
    return tuple(rows), lost


def _check_not_left_behind(buffers: Sequence[NamedTensor], parameters: Sequence[Row]) -> None:
    """Raise ValueError for a buffer in the memory of a parameter that gets new memory of another dtype."""
    moved = by_memory(row for row in parameters if row.is_fresh and not row.tensor.is_meta)
    for held in buffers:
        for row in moved.get(walk.memory_of(held.tensor), ()):
            if walk.overlap(held.tensor, row.tensor):
                raise ValueError(
                    f"buffer {held.path!r} shares the memory of parameter {row.name!r}, and dtype= would "
                    "leave the old values in it; give the buffer its own memory (clone()), or leave dtype= "
                    "out"
                )


def _is_readable(tensor: Tensor) -> bool:
    """Whether a buffer can be compared with what its module offers, without disturbing anybody."""
    if isinstance(local_of(tensor), FakeTensor) or not walk.has_memory(tensor):
        return False
    is_captured = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return bool(tensor.numel()) and not is_captured and not in_fake_mode()


def _is_same(tensor: Tensor, offered: Tensor) -> bool:
    """Compare what this process holds of a buffer. Of a sum it is one of the terms, which tells nothing."""
    if is_partial(tensor):
        return False
    with torch.no_grad():
        pairs = [(part.tensor.cpu(), offered[part.slices]) for part in parts(tensor)]
        return all(torch.equal(held, other.to(held.dtype)) for held, other in pairs)


def _values(start: _Start, key: str, shape: Sequence[int]) -> Values:
    """Return the values of a buffer, which may be of a dtype that the engine does not know."""
    return Same(start.value) if isinstance(start, Constant) else values_of(start, key, shape)


def _check(held: NamedTensor, start: _Start, dtype: torch.dtype, has_rules: bool) -> None:
    """Check that a buffer can be given what it starts from, before anything is written."""
    tensor, is_usual = held.tensor, isinstance(start, Constant) and not has_rules
    if is_usual and is_plain(tensor, any_dtype=True):
        return  # most of them
    if not is_usual:
        check_spectral(held, dtype)
    about = f"buffer {held.path!r}"
    if has_rules and isinstance(start, Constant | Uniform) and dtype.is_floating_point:
        check_range(start, dtype, about)
    with naming(about):
        if is_dtensor(tensor) and start != ZEROS:
            parts(tensor)  # raises what is wrong with its placements
        if has_rules:
            _check_fits(tensor, start, dtype)
        if not (tensor.is_meta or dtype != tensor.dtype) and walk.has_memory(tensor):
            check_tensor(local_of(tensor), "write")
            if tensor.is_neg() and not isinstance(start, Preset | Constant | Orthogonal | Redrawn):
                raise ValueError(
                    "cannot draw values for a view that shows its memory negated (is_neg()); accepted is its "
                    "resolve_neg()"
                )


def _check_fits(tensor: Tensor, start: _Start, dtype: torch.dtype) -> None:
    """Check what a rule says, as PyTorch and the engine find out by two elements.

    Raises:
        TypeError: a buffer that is not dense, or what Preset.check raises.
        ValueError: values that its dtype cannot hold.
    """
    if tensor.is_quantized or tensor.layout is not torch.strided:
        kind = f"quantised tensor ({tensor.dtype})" if tensor.is_quantized else f"{tensor.layout} tensor"
        raise TypeError(f"no rule can fill a {kind}; accepted is a dense tensor")
    if isinstance(start, Preset):
        start.check(logical(tensor), dtype)
    elif not isinstance(start, Orthogonal | Redrawn):
        elements = torch.empty(2, dtype=dtype, device="cpu")  # of one alone PyTorch asks less
        try:
            _values(start, "", (2,)).write_(0, Part(elements, (range(2),)))
        except RuntimeError as error:  # NotImplementedError too
            raise ValueError(f"{dtype} cannot hold {start}, which its rule says: {error}") from error


def _start(held: NamedTensor, rules: Sequence[Rule]) -> _Start | None:
    """Return what a rule says, otherwise what torch.nn does."""
    module, leaf = held.node.module, held.places[0][1]
    if rules:
        target = target_of_buffer(held)
        for rule in rules:
            if rule.matches_buffer(target):
                about = f"buffer {target.name!r}, {rule.text}"
                return _checked(said(rule, target, "buffer"), target.tensor, about)
    for owner, own in ((module, leaf), *held.places):
        for kind, values in _STARTS:
            if isinstance(owner, kind) and own in values:
                return values[own]
    return start_of(held)


def _checked(start: object, buffer: Tensor, about: str) -> _Start:
    """Return what a rule says of a buffer, if a buffer can be that."""
    if isinstance(start, Preset):
        with naming(about):
            start.check_shape(buffer)
    elif not is_distribution(start):
        raise TypeError(f"{about}: must be a distribution or a tensor, not {start!r}")
    elif not isinstance(start, Constant) and buffer.dtype not in SUPPORTED_DTYPES:
        raise TypeError(f"{about}: cannot draw values of {buffer.dtype}")
    return start
