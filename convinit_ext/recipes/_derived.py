"""Values that are not drawn: copies of another parameter's, given tensors, and norms of another parameter.

A rule may have them where it could have a distribution. How they are written a plan knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import PLAIN, check_memory, in_fake_mode, largest_of, ops
from convinit_ext.distributions import Constant, Uniform
from convinit_ext.keys import Key
from convinit_ext.recipes._foreign_code import seeded
from convinit_ext.sharding import is_dtensor


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
        TypeError: not a tensor, or one that is sparse or a DTensor.
        ValueError: a tensor on the meta device, which has no values. While planning: a finite value that the
            parameter's dtype cannot hold.

    >>> str(Preset(torch.eye(2)))
    'preset'
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise TypeError(f"Preset needs a tensor, not {type(self.tensor).__name__}")
        if self.tensor.is_meta:
            raise ValueError("Preset needs a tensor that has values, not one on the meta device")
        if self.tensor.layout is not torch.strided:
            raise TypeError(f"Preset needs a dense tensor, and not a {self.tensor.layout} tensor")
        if is_dtensor(self.tensor):
            raise TypeError("Preset needs the whole tensor, not a DTensor; each process takes its part")

    def check_shape(self, tensor: Tensor) -> None:
        """Raise what is wrong with it as the values of a tensor, whatever the dtype."""
        check_given(self.tensor, tensor)
        if self.tensor.shape != tensor.shape:
            raise ValueError(f"the preset has shape {list(self.tensor.shape)}, not {list(tensor.shape)}")

    def check(self, tensor: Tensor, dtype: torch.dtype) -> None:
        """Raise what is wrong with it as the values of a parameter, which has this dtype afterwards."""
        self.check_shape(tensor)
        if self.tensor.is_complex() and not tensor.is_complex():
            raise TypeError("the preset's values are complex, and accepted are real ones")
        try:
            check_converts(self.tensor.dtype, dtype)
        except RuntimeError as error:
            raise TypeError(f"values of {self.tensor.dtype} cannot be copied: {error}") from error
        check_finite_stay(self.tensor, dtype)

    def __str__(self) -> str:
        return "preset"


@dataclass(frozen=True, slots=True, eq=False)
class Redrawn:
    """Values that a model's own init code makes with global generators, which a key seeds."""

    kind: str
    make: Callable[[], Tensor]

    def values(self, key: Key) -> Tensor:
        return seeded(key.words[0], self.make)


@dataclass(frozen=True, slots=True)
class Transformed:
    """Values that are put through a function in float64, and then rounded to float32, or left so.

    The function has only operations that are rounded correctly, the same everywhere; the text has every
    number.
    """

    distribution: Uniform | Constant
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    text: str

    def values(self, key: Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return all of them, in float64 for that dtype and otherwise in float32."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        drawn = torch.empty(tuple(shape), dtype=exact, device="cpu")
        ops.fill_([drawn], key.tensor(), [self.distribution], None)
        return torch.from_numpy(self.function(drawn.double().numpy())).to(exact)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NormOf:
    """The norm of another parameter over all dimensions but one, as weight normalisation starts from it.

    It is taken in float32 at least and then rounded: narrower models are the rounding of float32 ones. Where
    it has dimensions of size 1 is the parameter's own affair.

    Args:
        name: canonical full name of the other parameter.
        dim: the dimension that stays; -1 is none.

    Source: torch.nn.utils.parametrizations.weight_norm, whose right_inverse computes it.
    """

    name: str
    dim: int

    def check(self, tensor: Tensor, source: Tensor) -> None:
        """Raise ValueError if the norm of `source` has other sizes than the parameter, but for those of 1."""
        shape = torch.norm_except_dim(torch.empty(source.shape, device="meta"), 2, self.dim).shape
        if [size for size in shape if size != 1] != [size for size in tensor.shape if size != 1]:
            raise ValueError(f"the norm of {self.name!r} has shape {list(shape)}, not {list(tensor.shape)}")

    def __str__(self) -> str:
        return f"norm_of({self.name!r})"


# Where the orthogonal parametrization makes exactly its base of it.
# Source: torch.nn.utils.parametrizations.orthogonal, with use_trivialization.
MINUS_IDENTITY = Transformed(Constant(0.0), lambda zeros: zeros - np.eye(*zeros.shape[-2:]), "minus_identity")


def check_given(values: Tensor, target: Tensor) -> None:
    """Check that a tensor has values which can be copied.

    TypeError for a quantised or nested one, ValueError for a fake one where `target` is none, or one whose
    memory was freed, or a part of it.
    """
    if values.is_quantized or values.is_nested:
        kind = "quantised" if values.is_quantized else "nested"
        raise TypeError(f"a {kind} tensor cannot be copied; accepted is a dense tensor")
    if isinstance(values, FakeTensor):
        if not (isinstance(target, FakeTensor) or _dispatch_modes()):
            raise ValueError("a fake tensor has no values; accepted is one with memory")
        return
    if is_traceable_wrapper_subclass(values) or values.layout is not torch.strided:
        return
    try:
        check_memory(values)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def check_finite_stay(values: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError for a finite value beyond a dtype, and for one that an integer dtype rounds."""
    largest, values = largest_of(dtype), values.detach()
    if not (type(values) in PLAIN and values.numel()) or in_fake_mode():
        return
    holds_whole_alone = not (dtype.is_floating_point or dtype.is_complex)
    if holds_whole_alone and values.is_floating_point() and not values.double().frac().eq(0).all():
        raise ValueError(f"{dtype} holds whole numbers alone, and the tensor has others")
    lowest = (-largest - holds_whole_alone) if dtype.is_signed else 0
    if largest_of(values.dtype) <= largest and dtype.is_signed >= values.dtype.is_signed:
        return
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    values = values.float() if values.itemsize == 1 else values  # PyTorch does not compare float8
    found = _extremes(values)
    if not all(map(math.isfinite, found)):
        values = values[values.isfinite()]
        found = _extremes(values) if values.numel() else ()
    for value in found:
        if not lowest <= value <= largest:
            raise ValueError(
                f"{dtype} cannot hold {value:.6g}, which the tensor has; it holds numbers from {lowest:.6g} "
                f"to {largest:.6g}"
            )


def _extremes(values: Tensor) -> tuple[float, ...]:
    return tuple(float(each) for each in values.aminmax())


def check_converts(given: torch.dtype, dtype: torch.dtype) -> None:
    """Raise RuntimeError where PyTorch does not convert values of the one dtype to the other."""
    torch.empty(1, dtype=dtype, device="cpu").copy_(torch.empty(1, dtype=given, device="cpu"))
