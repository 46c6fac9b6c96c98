"""Fills for tests: a distribution as the reference writes it, filled on one backend, read back as bits."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from reference import layer_key

from convinit_ext import _C, distributions
from convinit_ext._engine import HAS_CUDA
from convinit_ext._engine import _ops as ops

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
NO_NUMPY = torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
DISTRIBUTIONS = {
    "constant": distributions.Constant,
    "uniform": distributions.Uniform,
    "normal": distributions.Normal,
    "truncated_normal": distributions.TruncatedNormal,
}
KEY = layer_key(0, "layer1.0.conv1.weight")
# Why nothing can be filled on a GPU here; empty where it can.
WHY_NO_GPU = (
    ("" if torch.cuda.is_available() else "PyTorch sees no CUDA device")
    if HAS_CUDA
    else "this build has no CUDA"
)
SAME_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def shifted(name: str) -> distributions.Distribution:
    return DISTRIBUTIONS[name](*SHIFTED[name][1:])


def key_tensor(*keys: tuple[int, int]) -> torch.Tensor:
    """(key, stream) pairs as the engine takes them: int64, two's complement."""
    return torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64).reshape(-1, 2))


@contextlib.contextmanager
def forced_isa(name: str) -> Iterator[str]:
    before = _C.isa()
    _C.force_isa(name)
    try:
        yield name
    finally:
        _C.force_isa(before)


@dataclass(frozen=True)
class Backend:
    """A device and, on the CPU, the instruction set that must execute the fill."""

    device: str
    isa: str | None = None

    def __str__(self) -> str:
        return self.isa or self.device

    def forced(self) -> contextlib.AbstractContextManager[object]:
        return forced_isa(self.isa) if self.isa else contextlib.nullcontext()

    def empty(self, shape, dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=DTYPES[dtype], device=self.device)

    def fill_(self, tensor, distribution, key=KEY, start=None, strides=None) -> torch.Tensor:
        """Fill in place; with `start`, as that part of a larger logical tensor. Proves which path ran."""
        name, *params = distribution
        boxes = None
        if start is not None:
            boxes = [ops.Box(start, tuple(tensor.stride() if strides is None else strides))]
        num_launches = _C.num_cuda_launches()
        ops.fill_([tensor], key_tensor(key), [DISTRIBUTIONS[name](*params)], boxes)
        if self.isa and tensor.numel():
            assert _C.last_isa() == self.isa
        assert _C.num_cuda_launches() - num_launches == (self.device == "cuda" and tensor.numel() > 0)
        return tensor

    def fill(self, shape, distribution, dtype="float32", key=KEY, start=None, strides=None) -> torch.Tensor:
        return self.fill_(self.empty(shape, dtype), distribution, key, start, strides)


def available_backends() -> list[Backend]:
    backends = [Backend("cpu", name) for name in _C.available_isas()]
    return backends if WHY_NO_GPU else [*backends, Backend("cuda")]


def values(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as numpy, what numpy does not have as float32, which is exact."""
    tensor = tensor.detach().cpu().resolve_neg()
    return (tensor.float() if tensor.dtype in NO_NUMPY else tensor).contiguous().numpy()


def bits(array: np.ndarray | torch.Tensor) -> np.ndarray:
    array = np.ascontiguousarray(values(array) if isinstance(array, torch.Tensor) else array)
    return array.view(SAME_BITS[array.itemsize])


def as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor, an integer for each element."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def assert_same_bits(actual, expected, context: object = "") -> None:
    """Bit for bit: tells +0 from -0. Names the first element that differs."""
    left, right = bits(actual), bits(expected)
    assert left.shape == right.shape, (left.shape, right.shape, context)
    if not np.array_equal(left, right):
        where = tuple(int(i) for i in np.argwhere(left != right)[0])
        count = int((left != right).sum())
        raise AssertionError(
            f"{count} of {left.size} differ, first at {where}: "
            f"{left[where]:#x} is not {right[where]:#x} {context}"
        )


def freed(*shape: int) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


STANDARD = {
    "constant": ("constant", 0.3),
    "uniform": ("uniform", 0.0, 1.0),
    "normal": ("normal", 0.0, 1.0),
    "truncated_normal": ("truncated_normal", 0.0, 1.0, -2.0, 2.0),
}
SHIFTED = {
    "constant": ("constant", -7.5e-4),
    "uniform": ("uniform", -0.0361, 0.0417),
    "normal": ("normal", 0.125, 0.0236),
    "truncated_normal": ("truncated_normal", 0.01, 0.02, -0.03, 0.05),
}
