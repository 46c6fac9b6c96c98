"""The tensors of a model's state dict, each with what it holds: as planned, or as it is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from convinit_ext._engine import (
    check_not_in_fake_mode,
    digests,
    has_own_operations,
    lines,
    listed,
    naming,
)
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._plan import Plan, Row, by_memory
from convinit_ext.model._values import Given, SomeRows, Values, generated
from convinit_ext.recipes import check_given
from convinit_ext.sharding import is_dtensor, is_flat_piece, local_of, logical_shape, sharding_of

# The names of the format, in the order in which its library sorts a file's tensors (backwards): alignment.
_NAMES = """BOOL:bool F4:float4_e2m1fn_x2 U8:uint8 I8:int8
    F8_E5M2:float8_e5m2 F8_E4M3:float8_e4m3fn F8_E8M0:float8_e8m0fnu F8_E4M3FNUZ:float8_e4m3fnuz
    F8_E5M2FNUZ:float8_e5m2fnuz I16:int16 U16:uint16 F16:float16 BF16:bfloat16 I32:int32 U32:uint32
    F32:float32 C64:complex64 F64:float64 I64:int64 U64:uint64"""
DTYPES = {name: getattr(torch, dtype) for name, dtype in (each.split(":") for each in _NAMES.split())}


class SavedTensor(NamedTuple):
    """A tensor of a state dict, by its name in files, with the logical shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Values

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def saved_tensors(model: nn.Module, plan: Plan) -> list[SavedTensor]:
    """Return what the state dict holds once the plan has run; a tied tensor once, under its first name.

    What modules keep there beside tensors (get_extra_state) is left out: no file of tensors can hold it.

    Raises:
        ValueError: tensors on the meta device that the plan does not fill (all of them named), or two of one
            name once wrappers are removed; fake tensors; tensors that a hook makes of filled parameters.
        RuntimeError: inside a FakeTensorMode.
        TypeError: something in the state dict that a file of tensors cannot hold.
    """
    if any(is_flat_piece(row.tensor) for row in plan.rows):
        raise ValueError(
            "parameters are pieces of a FullyShardedDataParallel's flat one; accepted is the model before it "
            "is wrapped"
        )
    rows = {id(held.tensor): row for row in plan.all_rows for held in row.held}
    # Parameters that are filled where they are: a buffer may be in the same memory.
    filled = by_memory(row for row in plan.rows if row.values is not None and not row.is_fresh)
    found: dict[str, SavedTensor] = {}
    seen: set[object] = set()
    lost = []
    state = model.state_dict(keep_vars=True)
    _check_shows_rows(state, model, plan)
    for (key, value), saved in zip(state.items(), _names_in_files(model, state), strict=True):
        if walk.is_extra_state(key):
            continue
        row = rows.get(id(value))
        tensor = _checked(key, value, row is not None and row.rows is None)
        row = _in_memory(key, tensor, row, filled)
        identity = _identity(tensor, row)
        if identity in seen:
            continue
        seen.add(identity)
        if tensor.is_meta and tensor.numel() and row is None:
            lost.append(f"{key} {list(tensor.shape)}")
            continue
        name = walk.canonical(key)  # what a type of wrapper adds stays: peft's keys are those that it loads
        if name in found:
            raise ValueError(f"two tensors are named {name!r} once wrappers are removed; rename one")
        dtype, values = (tensor.dtype, None) if row is None else (row.dtype, row.values)
        if dtype not in DTYPES.values():
            raise TypeError(f"{key!r} is of {dtype}; a file holds {', '.join(DTYPES)}")
        if row is not None and values is not None and row.rows is not None:
            values = SomeRows(values, row.rows, tensor)
        found[name] = SavedTensor(saved, dtype, tuple(logical_shape(tensor)), values or Given(tensor))
    if lost:
        raise ValueError(
            f"nothing fills {len(lost)} tensor{'s' * (len(lost) > 1)} on the meta device:"
            + lines(lost)
            + "\nChoose them too, or build the model where they have values"
        )
    check_not_in_fake_mode("generate values")
    return list(found.values())


def _names_in_files(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """Return what a state dict's keys are called in files: as they are in the model inside its wrappers.

    A leading `module` stays where a module of another type has it as an attribute, and loads it by that name.
    """
    num_wrapping, module = 0, model
    while True:
        own_type: Any = type(module)
        child = "module" if walk.wrapped_child(own_type) == "module" else None
        child = child or next((each for each in walk.WRAPPERS if each in module._modules), None)
        inner = None if child is None else module._modules.get(child)
        if inner is None:
            break
        num_wrapping, module = num_wrapping + (child == "module"), inner
    found = []
    for key in keys:
        segments = [each for each in key.split(".") if each not in walk.WRAPPERS] or [key]
        num_leading = 0
        while num_leading < min(num_wrapping, len(segments) - 1) and segments[num_leading] == "module":
            num_leading += 1
        found.append(".".join(segments[num_leading:]))
    return found


def _check_shows_rows(state: Mapping[str, Any], model: nn.Module, plan: Plan) -> None:
    """Raise ValueError where a hook has put tensors of its own in place of filled parameters."""
    shown = set(map(id, state.values()))
    gone = [row.name for row in plan.rows if shown.isdisjoint(id(held.tensor) for held in row.held)]
    own = set(map(id, (*model.parameters(), *model.buffers()))) if gone else set()
    made = [key for key, value in state.items() if isinstance(value, Tensor) and id(value) not in own]
    if gone and made:
        raise ValueError(
            f"the model's state dict has {listed(made)}, which a hook makes, in place of {listed(gone)}; "
            "fill the model by init_model_, and save its state_dict() by safetensors.torch.save_file"
        )


def _in_memory(key: str, tensor: Tensor, row: Row | None, filled: Mapping[int, Sequence[Row]]) -> Row | None:
    """Return the row of the parameter that is filled and that a buffer is too; any other tensor's own.

    ValueError says that a buffer is a part of a parameter that is filled.
    """
    if (row is not None and not row.is_buffer) or tensor.is_meta:
        return row
    for other in filled.get(walk.memory_of(tensor), ()):
        if walk.view(tensor) == walk.view(other.tensor):
            return other
        if walk.overlap(tensor, other.tensor):
            raise ValueError(
                f"buffer {key!r} is a part of the memory of parameter {other.name!r}, which is filled; give "
                "it its own (clone()), or register it with persistent=False"
            )
    return row


def _identity(tensor: Tensor, row: Row | None) -> object:
    """Equal for tensors that are tied."""
    if row is not None and not row.is_buffer:
        return id(row)
    return id(tensor) if tensor.is_meta or not tensor.numel() else walk.view(tensor)


def fingerprint_of(tensors: Iterable[SavedTensor], seed: int) -> str:
    """Return what docs/fingerprint.md makes of the tensors, which are generated region by region."""
    heads, total = [], digests.no_sums()
    for each in tensors:
        head = digests.header(walk.canonical(each.name), each.dtype, each.shape)
        heads.append(head)
        for part in generated(each.values, seed, each.shape, each.dtype):
            total += digests.sums_of([head], [part.tensor], [part.box(each.shape)])[0]
    return digests.of_all(heads, total)


def _checked(key: str, value: Any, is_planned: bool) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{key!r} of the state dict is a {type(value).__name__}; a file holds tensors alone")
    if isinstance(local_of(value), FakeTensor):
        raise ValueError(
            f"{key!r} is fake: it has no values; accepted are tensors with memory, or on the meta device"
        )
    if is_planned:
        return value
    if is_dtensor(value):
        sharing = sharding_of(value)
        if sharing is not None and not (sharing.is_cut or sharing.is_outside):
            return local_of(value)  # a copy on every rank
        raise TypeError(f"{key!r} is a DTensor that is not filled as a whole, and no process has all of it")
    is_wrapper = has_own_operations(value)
    if value.layout is not torch.strided or value.is_nested or is_wrapper:
        kind = type(value).__name__ if is_wrapper else "nested" if value.is_nested else value.layout
        raise TypeError(f"{key!r} is a {kind} tensor; a file holds dense tensors alone")
    if logical_shape(value) != value.shape:
        raise TypeError(
            f"{key!r} is a part of a tensor that is not filled as a whole, and no process has all of it"
        )
    with naming(repr(key)):
        check_given(value, value)
    return value
