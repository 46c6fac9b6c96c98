"""Values that are not drawn: copies of another parameter's, given tensors, and norms of another parameter.

A rule may have them where it could have a distribution. Copies become fills again in the plan; presets and
norms are written by PyTorch's own operations, after the engine has filled everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import NO_MEMORY
from convinit_ext.distributions import Distribution
from convinit_ext.sharding import copy_whole_, is_dtensor, local_of, share_rows


@dataclass(frozen=True, slots=True)
class CopyFrom:
    """The values that another parameter is initialised to (not what it may hold by then).

    Args:
        name: canonical full name of a parameter of the same shape; dtype, device and strides may differ. If
            it is a copy itself, its source counts.

    Raises:
        TypeError: not a string.

    >>> str(CopyFrom("encoder.embed.weight"))
    "copy_from('encoder.embed.weight')"
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"CopyFrom needs the name of a parameter, not {self.name!r}")

    def __str__(self) -> str:
        return f"copy_from({self.name!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Preset:
    """The values of a tensor that is given, rounded to the parameter's dtype.

    Args:
        tensor: of the parameter's shape. It is read when everything that is drawn has been, and not changed.

    Raises:
        TypeError: not a tensor, or one that is sparse, complex or a DTensor.
        ValueError: a tensor on the meta device, which has no values.

    >>> str(Preset(torch.eye(2)))
    'preset'
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise TypeError(f"Preset needs a tensor, not {type(self.tensor).__name__}")
        if self.tensor.is_meta:
            raise ValueError("Preset needs a tensor that has values, not one on the meta device")
        if self.tensor.layout is not torch.strided or self.tensor.is_complex():
            raise TypeError("Preset needs a dense tensor of real numbers")
        if is_dtensor(self.tensor):
            raise TypeError("Preset needs the whole tensor, not a DTensor; each process takes its part")

    def check(self, tensor: Tensor, source: Tensor | None) -> None:
        check_given(self.tensor, tensor)
        try:
            check_converts(self.tensor.dtype, tensor.dtype)
        except RuntimeError as error:
            raise TypeError(f"values of {self.tensor.dtype} cannot be copied: {error}") from error
        if self.tensor.shape != tensor.shape:
            raise ValueError(f"the preset has shape {list(self.tensor.shape)}, not {list(tensor.shape)}")

    def write_(self, memory: Tensor, source: Tensor | None) -> None:
        copy_whole_(memory, self.tensor.detach())

    def __str__(self) -> str:
        return "preset"


@dataclass(frozen=True, slots=True)
class NormOf:
    """The norm of another parameter over all dimensions but one, as weight normalisation starts from it.

    It is taken in float32 at least and then rounded: narrower models are the rounding of float32 ones.

    Args:
        name: canonical full name of the other parameter.
        dim: the dimension that stays; -1 is none.

    Source: torch.nn.utils.parametrizations.weight_norm, whose right_inverse computes it.
    """

    name: str
    dim: int

    def check(self, tensor: Tensor, source: Tensor | None) -> None:
        assert source is not None
        norm = torch.norm_except_dim(torch.empty(source.shape, device="meta"), 2, self.dim)
        if norm.shape != tensor.shape:
            raise ValueError(
                f"the norm of {self.name!r} has shape {list(norm.shape)}, not {list(tensor.shape)}"
            )

    def write_(self, memory: Tensor, source: Tensor | None) -> None:
        assert source is not None
        memory, source = local_of(memory), local_of(source)
        if memory.numel():
            # in row-major order, since the sum's last bit depends on the order of memory
            exact = source.detach().to(norm_dtype(source.dtype)).contiguous()
            memory.copy_(torch.norm_except_dim(exact, 2, self.dim))

    def __str__(self) -> str:
        return f"norm_of({self.name!r})"


def norm_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the norm of a parameter of this dtype is computed: float32 at least."""
    return dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32


@dataclass(frozen=True, slots=True)
class MinusIdentity:
    """-1 on the diagonal and 0 elsewhere: where the orthogonal parametrization makes exactly its base of it.

    Source: torch.nn.utils.parametrizations.orthogonal, with use_trivialization.
    """

    def check(self, tensor: Tensor, source: Tensor | None) -> None:
        assert tensor.ndim >= 2

    def write_(self, memory: Tensor, source: Tensor | None) -> None:
        memory.zero_().diagonal(dim1=-2, dim2=-1).fill_(-1.0)

    def __str__(self) -> str:
        return "minus_identity"


@dataclass(frozen=True, slots=True)
class Redrawn:
    """A copy between float64 and a narrower dtype: the two draw other words. So the values are drawn in the
    dtype of the parameter that is copied, and rounded.

    Args:
        distribution: of the values.
        zero_row: as in Row.
        dtype: of the parameter that is copied.
    """

    distribution: Distribution
    zero_row: int | None
    dtype: torch.dtype

    def check(self, tensor: Tensor, source: Tensor | None) -> None:
        pass

    def write_(self, memory: Tensor, source: Tensor | None) -> None:
        assert source is not None
        local_of(memory).copy_(local_of(source))


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """A square orthogonal matrix, uniform over all of them: what a buffer may start from."""


Derived: TypeAlias = Preset | NormOf | MinusIdentity | Redrawn


def check_given(values: Tensor, target: Tensor) -> None:
    """Check that a tensor has values which can be copied.

    Raises:
        TypeError: a quantised or nested one.
        ValueError: a fake one where `target` is none, or one whose memory was freed.
    """
    if values.is_quantized or values.is_nested:
        kind = "quantised" if values.is_quantized else "nested"
        raise TypeError(f"a {kind} tensor cannot be copied; accepted is a dense tensor")
    if isinstance(values, FakeTensor):
        if not (isinstance(target, FakeTensor) or _dispatch_modes()):
            raise ValueError("a fake tensor has no values; accepted is one with memory")
    elif is_traceable_wrapper_subclass(values) or values.layout is not torch.strided:
        return
    elif values.numel() and not values.untyped_storage().size():
        raise ValueError(NO_MEMORY)


def check_converts(given: torch.dtype, dtype: torch.dtype) -> None:
    """Raise RuntimeError where PyTorch does not convert values of the one dtype to the other."""
    torch.empty(1, dtype=dtype, device="cpu").copy_(torch.empty(1, dtype=given, device="cpu"))


def check_sharding(derived: Derived, tensor: Tensor, source: Tensor | None) -> None:
    """Raise ValueError where a process has less of the source than its part of the values needs."""
    if isinstance(derived, Preset | Redrawn) or not (
        is_dtensor(tensor) or (source is not None and is_dtensor(source))
    ):
        return
    if not (isinstance(derived, NormOf) and source is not None and share_rows(tensor, source, derived.dim)):
        raise ValueError("it needs the whole of a tensor that is a DTensor; give it a rule of its own")


def root_of(name: str, copied: Callable[[str], CopyFrom | None]) -> str:
    """Return the parameter that a chain of copies ends at.

    Args:
        name: where the chain starts.
        copied: what each parameter copies, None if it is no copy.

    Raises:
        ValueError: a chain that comes back to itself.

    >>> root_of("c", {"a": None, "b": CopyFrom("a"), "c": CopyFrom("b")}.get)
    'a'
    """
    chain = [name]
    while (copy := copied(chain[-1])) is not None:
        if copy.name in chain:
            cycle = " -> ".join(map(repr, [*chain[chain.index(copy.name) :], copy.name]))
            raise ValueError(f"parameters copy from each other in a cycle: {cycle}")
        chain.append(copy.name)
    return chain[-1]
