"""The head of a safetensors file: which tensors it holds, and where. Everything is checked before it is used.

Eight bytes with the head's length, the head as JSON, then the tensors' bytes without gaps:
https://huggingface.co/docs/safetensors. Knows single files, no folders.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from convinit_ext.model import DTYPES


class WeightsError(ValueError):
    """A file, index or folder of weights that is not what it should be: its name, and what is wrong."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        name: of the tensor.
        dtype: of its elements.
        shape: as PyTorch would give it.
        path: the file.
        begin: where its bytes start in the file.
        end: where they end.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


LENGTH_BYTES = 8
_MAX_HEAD_BYTES = 100_000_000  # what the format's library reads
PAIRED = "F4"  # two elements to a byte, and PyTorch counts the bytes
_FOREIGN = (
    (b"PK\x03\x04", "it is a zip archive, such as torch.save writes"),
    (b"\x80", "it is a pickle, such as torch.save used to write"),
    (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file with: git lfs pull"),
    (b"GGUF", "it is a GGUF file"),
    (b"\x89HDF", "it is an HDF5 file"),
    (b"{", "it is text like JSON; an index is named *.safetensors.index.json"),
    (b"<", "it is text like HTML"),
)


def read_head(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its metadata.

    Raises:
        WeightsError: not a safetensors file, or one that is cut short, damaged or of unknown dtypes.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            text = _head_text(path, file, size)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    head = parsed_object(path, text)
    metadata = _checked_metadata(path, head.pop("__metadata__", None))
    start = LENGTH_BYTES + len(text)
    tensors = [_stored(path, name, entry, start) for name, entry in head.items()]
    tensors.sort(key=lambda each: (each.begin, each.end))
    _check_contiguous(path, tensors, start, size)
    return tensors, metadata


def _head_text(path: Path, file: BinaryIO, size: int) -> bytes:
    length_bytes = file.read(LENGTH_BYTES)
    length = int.from_bytes(length_bytes, "little")
    if size < LENGTH_BYTES or not 2 <= length <= min(size - LENGTH_BYTES, _MAX_HEAD_BYTES):
        raise WeightsError(f"{path} is not a whole safetensors file: {_looks_like(length_bytes, file, size)}")
    return file.read(length)


def _looks_like(start: bytes, file: BinaryIO, size: int) -> str:
    if not size:
        return "it is empty"
    text = (start + file.read(32)).lstrip()
    known = (what for magic, what in _FOREIGN if text.startswith(magic))
    length = int.from_bytes(start, "little")
    return next(known, f"it starts with {start!r}, a head of {length} bytes, and has {size} bytes")


def parsed_object(path: Path, text: bytes, what: str = "its head") -> dict[str, Any]:
    """A JSON object whose names are all different; `what` calls it in an error.

    Raises:
        WeightsError: the text is anything else.
    """
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # the decoders' own errors are ValueErrors
        raise WeightsError(f"{path}: {what} is no JSON that can be read: {error}") from error
    if not isinstance(parsed, dict):
        raise WeightsError(f"{path}: its JSON must be an object, not {type(parsed).__name__}")
    return parsed


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        name.encode("utf-8")  # half a surrogate pair is no name
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise WeightsError(f"{path}: its __metadata__ must be an object of strings")
    return metadata


def _stored(path: Path, name: str, entry: object, start: int) -> StoredTensor:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise WeightsError(f"{where}: must have a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{where}: unknown dtype {dtype!r}; accepted are {', '.join(DTYPES)}")
    if not _are_sizes(shape):
        raise WeightsError(
            f"{where}: its shape must be a list of numbers that are not negative, not {shape!r}"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise WeightsError(f"{where}: its data_offsets must be two numbers, not {offsets!r}")
    if dtype == PAIRED:
        if not shape or shape[-1] % 2:
            raise WeightsError(f"{where}: {dtype} needs an even last dimension, and its shape is {shape}")
        shape = [*shape[:-1], shape[-1] // 2]
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise WeightsError(
            f"{where}: {dtype} {shape} takes {needed} bytes, and its data_offsets are {offsets}"
        )
    return StoredTensor(name, DTYPES[dtype], tuple(shape), path, start + offsets[0], start + offsets[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(each) is int and 0 <= each < 2**63 for each in values)


def _check_contiguous(path: Path, tensors: list[StoredTensor], start: int, size: int) -> None:
    end = start
    for each in tensors:
        if each.begin != end:
            what = "there is a gap before it" if each.begin > end else "the tensor before it overlaps it"
            raise WeightsError(f"{path}: tensor {each.name!r}: {what}, at byte {end}")
        end = each.end
    if size != end:
        what = "it was cut short" if size < end else "something follows the last tensor"
        raise WeightsError(f"{path}: its tensors end at byte {end}, and the file has {size}: {what}")
