"""The compiled ops: which tensors they can reach, and one call for a list of tensors. Knows no models."""

from convinit_ext._engine import _compare as differences
from convinit_ext._engine import _digest as digests
from convinit_ext._engine import _ops as ops
from convinit_ext._engine._checks import (
    HAS_CUDA,
    MARKS,
    PLAIN,
    SUPPORTED_DTYPES,
    UnsupportedTensorError,
    are_plain,
    bounds_fit,
    check_dtype,
    check_kind,
    check_memory,
    check_not_in_fake_mode,
    check_not_transformed,
    check_own_operations,
    check_tensor,
    extent,
    has_own_operations,
    in_fake_mode,
    is_plain,
    largest_of,
    share_memory,
    span,
    storage_of,
)
from convinit_ext._engine._compile import BLOCKS, uncompiled
from convinit_ext._engine._digest import FINGERPRINT_VERSION, Sums
from convinit_ext._engine._fork import FORKED, on_this_thread
from convinit_ext._engine._load import _C
from convinit_ext._engine._messages import check_flags, excerpt, lines, listed, naming, progress_bar, reason
from convinit_ext._engine._ops import (
    NUM_SUMS,
    SMALL_BYTES,
    Box,
    fill_,
    fill_one_,
    fill_small_,
    increment_version,
    make_orthogonal_,
    row_major,
)
