"""The compiled ops: which tensors they can reach, and one call for a list of tensors. Knows no models."""

from convinit_ext._engine import _differences as differences
from convinit_ext._engine import _digest as digests
from convinit_ext._engine import _ops as ops
from convinit_ext._engine._differences import element, same_bits, whole
from convinit_ext._engine._digest import FINGERPRINT_VERSION, Sums
from convinit_ext._engine._excerpt import excerpt, reason
from convinit_ext._engine._load import _C
from convinit_ext._engine._ops import (
    HAS_CUDA,
    NUM_SUMS,
    SMALL,
    SUPPORTED_DTYPES,
    Box,
    UnsupportedTensorError,
    fill_,
    fill_one_,
    fill_part_,
    fill_small_,
    increment_version,
    row_major,
)
from convinit_ext._engine._supported import (
    LARGEST,
    NO_MEMORY,
    bounds_fit,
    check_dtype,
    check_not_in_fake_mode,
    check_readable,
    check_supported,
    in_fake_mode,
)
from convinit_ext._engine._uncompiled import uncompiled
from convinit_ext._engine._writable import (
    PLAIN,
    STRIDED,
    check_places,
    check_writable,
    has_places,
    is_surely_writable,
)

__all__ = [
    "FINGERPRINT_VERSION",
    "HAS_CUDA",
    "LARGEST",
    "NO_MEMORY",
    "NUM_SUMS",
    "PLAIN",
    "SMALL",
    "STRIDED",
    "SUPPORTED_DTYPES",
    "_C",
    "Box",
    "Sums",
    "UnsupportedTensorError",
    "bounds_fit",
    "check_dtype",
    "check_not_in_fake_mode",
    "check_places",
    "check_readable",
    "check_supported",
    "check_writable",
    "differences",
    "digests",
    "element",
    "excerpt",
    "fill_",
    "fill_one_",
    "fill_part_",
    "fill_small_",
    "has_places",
    "in_fake_mode",
    "increment_version",
    "is_surely_writable",
    "ops",
    "reason",
    "row_major",
    "same_bits",
    "uncompiled",
    "whole",
]
