"""Types of the compiled module; csrc/torch/python.cpp defines it."""

from collections.abc import Sequence

from torch import Tensor, nn

def build_info() -> dict[str, str]: ...
def isa() -> str: ...
def last_isa() -> str: ...
def available_isas() -> list[str]: ...
def force_isa(name: str) -> None: ...
def members(modules: list[nn.Module], /) -> list[object]: ...
def has_members(modules: list[nn.Module], expected: list[object], /) -> bool: ...
def num_cuda_launches() -> int: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def in_memory(tensor: Tensor, /) -> bool: ...
def fill_small(
    data: int,
    numel: int,
    dtype: int,
    key: int,
    kind: int,
    p0: float,
    p1: float,
    p2: float,
    p3: float,
    start: int,
    /,
) -> None: ...
def fill_small_part(
    data: int,
    dtype: int,
    key: int,
    kind: int,
    p0: float,
    p1: float,
    p2: float,
    p3: float,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    start: int,
    index_strides: tuple[int, ...],
    /,
) -> None: ...
