"""docs/fingerprint.md in Python: headers, keys and hashes around the engine's sums. Knows no models."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convinit_ext._engine import _ops as ops
from convinit_ext._engine._checks import check_not_in_fake_mode
from convinit_ext._engine._ops import Box

FINGERPRINT_VERSION = 1

_PERSON = b"convinit-fp%d-" % FINGERPRINT_VERSION

# Four numbers modulo 2^64, or rows of them.
Sums: TypeAlias = NDArray[np.uint64]


def header(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """What is known of a tensor without its elements: contract, section 1.

    >>> len(header("fc.weight", torch.float32, (8, 4)))
    56
    """
    return _text(name) + _dtype(dtype) + struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)


def _text(text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name must be text that UTF-8 can hold, not {text!r}") from None
    return struct.pack("<Q", len(encoded)) + encoded


@lru_cache(maxsize=64)
def _dtype(dtype: torch.dtype) -> bytes:
    return _text(str(dtype).removeprefix("torch."))


def no_sums(num_rows: int | None = None) -> Sums:
    """Of nothing: (4,) or (num_rows, 4) zeros."""
    return np.zeros(ops.NUM_SUMS if num_rows is None else (num_rows, ops.NUM_SUMS), dtype=np.uint64)


def sums_of(headers: Sequence[bytes], tensors: Sequence[Tensor], boxes: Sequence[Box | None]) -> Sums:
    """Return the four sums of every tensor, or of the part of it that its box says: (len(tensors), 4).

    The headers are those of the full logical tensors; the tensors are dense, of any dtype of whole bytes.
    """
    check_not_in_fake_mode("take a fingerprint")
    words = np.frombuffer(b"".join(_hash(b"key", each) for each in headers), dtype="<i8")
    keys = torch.from_numpy(words.astype(np.int64)).view(-1, 2)
    return ops.digest(tensors, keys, boxes).numpy().view(np.uint64)


def of_one(head: bytes, sums: Sums) -> str:
    """The fingerprint of one tensor."""
    return _hash(b"one", head + _bytes(sums)).hex()


def of_all(headers: Iterable[bytes], total: Sums) -> str:
    """The fingerprint of tensors by name: of a model, a state dict or a file."""
    ordered = sorted(headers)
    message = struct.pack("<Q", len(ordered)) + _bytes(total) + _hash(b"hdr", b"".join(ordered), 32)
    return _hash(b"all", message).hex()


def _hash(person: bytes, message: bytes, size: int = 16) -> bytes:
    return hashlib.blake2b(message, digest_size=size, person=_PERSON + person).digest()


def _bytes(sums: Sums) -> bytes:
    return sums.astype("<u8").tobytes()
