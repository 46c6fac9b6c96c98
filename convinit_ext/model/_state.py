"""The tensors of a model's state dict, each with what it holds: as planned, or as it is in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import Box, check_not_in_fake_mode, digests
from convinit_ext.distributions import Constant
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model import _spectral as spectral
from convinit_ext.model._buffers import BufferRow
from convinit_ext.model._contents import (
    Computed,
    Content,
    Drawn,
    Given,
    MinusOnes,
    NormOfRows,
    Rounded,
    Same,
    whole,
)
from convinit_ext.model._named_tensors import Held
from convinit_ext.model._plan import Plan, Row
from convinit_ext.recipes import MinusIdentity, NormOf, Orthogonal, Preset, norm_dtype
from convinit_ext.sharding import is_dtensor, local_of

# The names of the format, in the order in which its library sorts a file's tensors (backwards): alignment.
DTYPES = {
    name: getattr(torch, dtype)
    for name, dtype in (
        ("BOOL", "bool"),
        ("F4", "float4_e2m1fn_x2"),
        ("U8", "uint8"),
        ("I8", "int8"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
        ("I16", "int16"),
        ("U16", "uint16"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("I32", "int32"),
        ("U32", "uint32"),
        ("F32", "float32"),
        ("C64", "complex64"),
        ("F64", "float64"),
        ("I64", "int64"),
        ("U64", "uint64"),
    )
}
_BLOCK_BYTES = 1 << 25  # of what is generated at once


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A tensor to save.

    Args:
        name: canonical name of the state dict.
        dtype: of the values.
        shape: of the logical tensor.
        content: its values.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    content: Content

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def entries(model: nn.Module, plan: Plan) -> list[Entry]:
    """What the model's state dict would hold once the plan has run; a tied tensor once, under its first name.

    What modules keep there beside tensors (get_extra_state) is left out: no file of tensors can hold it.

    Raises:
        ValueError: tensors on the meta device that the plan does not fill (all of them named), or two of one
            name once wrappers are removed; fake tensors.
        RuntimeError: inside a FakeTensorMode.
        TypeError: something in the state dict that a file of tensors cannot hold.
    """
    planned = _Planned(plan)
    paths = {id(each.tensor): each for each in _all_held(model)}
    found: dict[str, Entry] = {}
    seen: set[object] = set()
    lost = []
    for key, value in model.state_dict(keep_vars=True).items():
        if walk.is_extra_state(key):
            continue
        tensor = _checked(key, value, planned)
        identity = planned.identity(tensor)
        if identity in seen:
            continue
        seen.add(identity)
        if tensor.is_meta and tensor.numel() and not planned.fills(tensor):
            lost.append(f"{key} {list(tensor.shape)}")
            continue
        held = paths.get(id(tensor))
        name = held.name if held is not None and held.path == key else key
        name = walk.canonical(name)
        if name in found:
            raise ValueError(f"two tensors are named {name!r} once wrappers are removed; rename one")
        found[name] = planned.entry(name, tensor)
    if lost:
        raise ValueError(
            f"nothing fills {len(lost)} tensor{'s' * (len(lost) > 1)} on the meta device:\n  "
            + "\n  ".join(lost)
            + "\nChoose them too, or build the model where they have values"
        )
    check_not_in_fake_mode("generate values")
    return list(found.values())


def fingerprint_of(found: Iterable[Entry]) -> str:
    """What docs/fingerprint.md makes of the tensors, which are generated block by block."""
    heads, total = [], digests.no_sums()
    scratch = torch.empty(_BLOCK_BYTES, dtype=torch.uint8, device="cpu")
    for each in found:
        head = digests.header(each.name, each.dtype, each.shape)
        heads.append(head)
        memory = scratch.view(each.dtype)
        num_elements = each.num_bytes // each.dtype.itemsize
        for start in range(0, num_elements, len(memory)):
            block = memory[: num_elements - start]
            each.content.write_(block, start)
            total += digests.sums_of([head], [block], [Box(start, (1,))])[0]
    return digests.of_all(heads, total)


def _all_held(model: nn.Module) -> list[Held]:
    nodes = list(walk.modules(model))
    return [*walk.parameters(nodes), *walk.buffers(nodes)]


def _checked(key: str, value: Any, planned: _Planned) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{key!r} of the state dict is a {type(value).__name__}; a file holds tensors alone")
    if isinstance(local_of(value), FakeTensor):
        raise ValueError(
            f"{key!r} is fake: it has no values; accepted are tensors with memory, or on the meta device"
        )
    if planned.fills(value):
        return value
    if is_dtensor(value):
        raise TypeError(f"{key!r} is a DTensor that nothing fills, and no process has the whole of it")
    if value.layout is not torch.strided or value.is_nested or is_traceable_wrapper_subclass(value):
        kind = type(value).__name__ if is_traceable_wrapper_subclass(value) else value.layout
        raise TypeError(f"{key!r} is a {kind} tensor; a file holds dense tensors alone")
    if value.dtype not in DTYPES.values():
        raise TypeError(f"{key!r} is of {value.dtype}; a file holds {', '.join(DTYPES)}")
    return value


class _Planned:
    """What a plan makes of each tensor."""

    def __init__(self, plan: Plan) -> None:
        self._seed = plan.seed
        self._rows = {id(held.tensor): row for row in plan.rows for held in row.held}
        self._buffers = {id(row.held.tensor): row for row in plan.buffers}
        self._places = {(id(module), leaf): row for row in plan.buffers for module, leaf in row.held.places}

    def fills(self, tensor: Tensor) -> bool:
        return id(tensor) in self._rows or id(tensor) in self._buffers

    def identity(self, tensor: Tensor) -> object:
        """Equal for tensors that are tied."""
        row = self._rows.get(id(tensor))
        if row is not None or tensor.is_meta or not tensor.numel():
            return id(row or tensor)
        return walk.view(tensor)

    def entry(self, name: str, tensor: Tensor) -> Entry:
        row, buffer = self._rows.get(id(tensor)), self._buffers.get(id(tensor))
        if row is not None:
            dtype, content = row.dtype, self._of_row(row)
        elif buffer is not None:
            dtype, content = buffer.dtype, self._of_buffer(buffer)
        else:
            dtype, content = tensor.dtype, Given(tensor, tensor.dtype)
        return Entry(name, dtype, tuple(tensor.shape), content)

    def _of_row(self, row: Row) -> Content:
        derived, drawn = row.derived, row.drawn
        if drawn is not None:
            width = row.tensor.numel() // row.tensor.shape[0] if drawn.zero_row is not None else 0
            first = (drawn.zero_row or 0) * width
            content = Drawn(self._seed, row.key, drawn.distribution, range(first, first + width))
            return content if derived is None else Rounded(content, drawn.dtype)
        if isinstance(derived, Preset):
            return Given(derived.tensor, row.dtype)
        if isinstance(derived, MinusIdentity):
            return MinusOnes(*row.tensor.shape[-2:])
        assert isinstance(derived, NormOf) and row.source is not None
        return self._norm(derived, row.source.tensor)

    def _norm(self, derived: NormOf, tensor: Tensor) -> Content:
        source = self.entry(derived.name, tensor)
        dtype = norm_dtype(source.dtype)
        if derived.dim == 0:
            return NormOfRows(source.content, source.shape, dtype)
        return Computed(
            lambda: f"norm except {derived.dim} of {source.shape} {source.content.text()}",
            lambda: torch.norm_except_dim(whole(source.content, source.shape, dtype), 2, derived.dim),
        )

    def _of_buffer(self, row: BufferRow) -> Content:
        start = row.start
        if start is None:
            return Given(row.held.tensor, row.dtype)
        vectors = self._vectors(row)
        if vectors:
            return self._settled(row, vectors)
        if isinstance(start, Tensor):
            return Given(start, row.dtype)
        if isinstance(start, Constant):
            return Same(start.value)
        if isinstance(start, Orthogonal):
            return Computed(lambda: f"{start!r} {row.key!r} {self._seed}", lambda: row.new(self._seed))
        return Drawn(self._seed, row.key, start)

    def _vectors(self, row: BufferRow) -> list[BufferRow]:
        """Both vectors of spectral_norm where the second one starts anew: only then they settle."""
        names = spectral.vectors_of(row.held)
        module = row.held.places[0][0]
        found = [self._places.get((id(module), name)) for name in names or ()]
        return [each for each in found if each is not None] if found and found[-1] is not None else []

    def _settled(self, row: BufferRow, vectors: list[BufferRow]) -> Content:
        last = vectors[-1].held
        module, leaf = row.held.places[0]
        weight = last.node.parents[-1]._parameters.get("original") if last.node.parents else None
        source = None if weight is None else self.entry("original", weight)

        def compute() -> Tensor:
            buffers = {name: tensor.clone() for name, tensor in module._buffers.items() if tensor is not None}
            new = {each.held.places[0][1]: each.new(self._seed) for each in vectors}
            made = None if source is None else whole(source.content, source.shape, source.dtype)
            return spectral.settled(last, buffers | new, made)[leaf]

        def text() -> str:
            starts = " ".join(f"{each.start!r} {each.key!r} {self._seed}" for each in vectors)
            return f"settled {starts} {'' if source is None else source.content.text()}"

        return Computed(text, compute)
