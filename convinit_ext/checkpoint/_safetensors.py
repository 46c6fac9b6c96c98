"""Weights on disk: a safetensors file, an index of several, or a folder that holds either; read and laid out.

A tensor in a file is a tensor, mapped by the format's library. What that library does not check is checked
here: names that are there twice, files that are something else, indexes that disagree with their files.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from convinit_ext._engine import excerpt, listed, reason
from convinit_ext.keys import CONTRACT_VERSION
from convinit_ext.model import walk
from convinit_ext.recipes import distinct

FILE_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
LENGTH_BYTES = 8  # of the head's length, with which a file begins
_INDEX = re.compile(r"\.safetensors\.index(\.[^.]+)?\.json$")  # a variant, such as fp16, has its name in it
_BASE_NAMES = ("model", "diffusion_pytorch_model")  # of transformers, and of diffusers
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}\.safetensors$")
_RUN_KEYS = ("contract", "seed", "recipe", "plan")  # of one run, whose files all say the same
_MAX_HEAD_BYTES = 100_000_000  # what the format's library reads
_FOREIGN = (
    (b"PK\x03\x04", "it is a zip archive, such as torch.save writes"),
    (b"\x80", "it is a pickle, such as torch.save used to write"),
    (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file with: git lfs pull"),
    (b"GGUF", "it is a GGUF file"),
    (b"\x89HDF", "it is an HDF5 file"),
    (b"{", "it is text like JSON; an index is named *.safetensors.index.json"),
    (b"<", "it is text like HTML"),
)


class WeightsError(ValueError):
    """A file, index or folder of weights that is not what it should be: its name, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file, or an index with its files, holds.

    The tensors are in the order of the files and of the bytes in them; mapped, and not to be written. The
    metadata is what all the files say alike, the sizes those when they were opened.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sizes: dict[Path, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.sizes)

    def check_contract(self) -> None:
        """Raise WeightsError if the files name a version of the value contract that is not known here."""
        version = self.metadata.get("contract")
        if version is not None and version != str(CONTRACT_VERSION):
            raise WeightsError(
                f"{self.paths[0]}: its values follow version {excerpt(version)} of the value contract; "
                f"this release knows {CONTRACT_VERSION}"
            )

    def check_sizes(self) -> None:
        """Raise WeightsError if a file became shorter: reading what is mapped would end the process."""
        for path, size in self.sizes.items():
            if not path.is_file() or path.stat().st_size < size:
                raise WeightsError(f"{path}: the file became shorter after it was opened")


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Open a safetensors file, the files of an index, or what a folder holds, and check all that they say.

    WeightsError is raised for a file that is missing, foreign, cut short or damaged, an index that disagrees
    with its files or names one elsewhere, a folder with no weights or more than one set, and two tensors of
    one name.
    """
    if not os.fspath(path):
        raise WeightsError("the path is empty; accepted are a safetensors file, an index, and a folder")
    path = Path(path)
    try:
        path = _found(path)
        weights = _open_index(path) if _INDEX.search(path.name) else _open_file(path)
        _check_names(path, weights.tensors)
        return weights
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Names that differ by wrappers alone are one name to every reader."""
    found: dict[str, str] = {}
    for name in names:
        canonical = walk.canonical(name)
        if found.setdefault(canonical, name) != name and not walk.is_extra_state(name):
            raise WeightsError(
                f"{path}: two tensors are named {excerpt(canonical)} once wrappers are removed: "
                f"{excerpt(found[canonical])} and {excerpt(name)}"
            )


def _open_file(path: Path) -> Weights:
    size = 0
    try:
        size, text = _head_text(path)
        head = _parsed(path, text, "its head")
        metadata = head.pop("__metadata__", None) or {}
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys(), key=lambda name: head[name]["data_offsets"])
            tensors = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    except (SafetensorError, RuntimeError, TypeError, OverflowError) as error:  # the last of sizes for torch
        what = f"is not a whole safetensors file, at {size} bytes"
        raise WeightsError(f"{path} {what}: {reason(error)}") from error
    return Weights(tensors, metadata, {path: size})


def _head_text(path: Path) -> tuple[int, bytes]:
    """Return the file's size, and its head as JSON."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if size < LENGTH_BYTES or not 2 <= length <= min(size - LENGTH_BYTES, _MAX_HEAD_BYTES):
            what = _looks_like(start, file.read(32), size)
            raise WeightsError(f"{path} is not a whole safetensors file: {what}")
        return size, file.read(length)


def _looks_like(start: bytes, more: bytes, size: int) -> str:
    if not size:
        return "it is empty"
    text = (start + more).lstrip()
    known = (what for magic, what in _FOREIGN if text.startswith(magic))
    length = int.from_bytes(start, "little")
    return next(known, f"it starts with {start!r}, a head of {length} bytes, and has {size} bytes")


def _parsed(path: Path, text: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object whose names are all different; WeightsError for any other text, called `what`."""
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:  # the decoders' own errors are ValueErrors
        raise WeightsError(f"{path}: {what} is no JSON that can be read: {reason(error)}") from error
    if not isinstance(parsed, dict):
        raise WeightsError(f"{path}: its JSON must be an object, not {type(parsed).__name__}")
    return parsed


def _found(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file")
    found = _found_in(path) if path.is_dir() else path
    if not found.is_file():  # to open a pipe would wait for somebody to write
        raise WeightsError(f"{found}: must be a file{'' if path.is_dir() else ' or a folder'}")
    return found


def _found_in(folder: Path) -> Path:
    """The folder's one index or file of weights: of the usual name, or else the only one."""
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    found = [name for name in names if name.endswith(FILE_SUFFIX) or _INDEX.search(name)]
    whole = [name for name in found if not _SHARD.search(name)]
    usual = [
        name for name in whole if name.removesuffix(".index.json").removesuffix(FILE_SUFFIX) in _BASE_NAMES
    ]
    for candidates in (usual, whole):
        if len(candidates) == 1:
            return folder / candidates[0]
    if whole:
        raise WeightsError(f"{folder} holds more than one set of weights: {listed(usual or whole)}; name one")
    if found:
        raise WeightsError(f"{folder} holds shards without their index {INDEX_SUFFIX!r}: {listed(found)}")
    raise WeightsError(f"{folder} holds no safetensors file; there is {listed(names) or 'nothing'}")


def _open_index(path: Path) -> Weights:
    content = _parsed(path, path.read_bytes(), "it")
    where = _checked_map(path, content.get("weight_map"))
    files = {name: _open_file(path.parent / name) for name in dict.fromkeys(where.values())}
    tensors: dict[str, Tensor] = {}
    for file, opened in files.items():
        for name in opened.tensors:
            if where.get(name) != file:
                said = f"in {where[name]}" if name in where else "nowhere"
                raise WeightsError(f"{path} says that tensor {excerpt(name)} is {said}; it is in {file}")
        tensors |= opened.tensors
    missing = [name for name in where if name not in tensors]
    if missing:
        raise WeightsError(f"{path} says that {where[missing[0]]} holds {listed(missing)}, and it does not")
    shared = _shared(path, {name: opened.metadata for name, opened in files.items()})
    _check_total(path, content.get("metadata"), tensors, exact="plan" in shared)
    return Weights(
        tensors, shared, {at: size for opened in files.values() for at, size in opened.sizes.items()}
    )


def _checked_map(path: Path, where: object) -> dict[str, str]:
    """The index's names of tensors and of files: all of the files are there, beside it."""
    if not isinstance(where, dict) or not where:
        raise WeightsError(f"{path}: must have a weight_map, tensors' and files' names, that is not empty")
    for name, file in where.items():
        if not isinstance(file, str) or file in ("", ".", "..") or any(each in file for each in "/\\\0:"):
            raise WeightsError(
                f"{path}: tensor {excerpt(name)} is said to be in {excerpt(file)}; accepted are files of the "
                "same folder"
            )
    missing = [file for file in dict.fromkeys(where.values()) if not (path.parent / file).is_file()]
    if missing:
        raise WeightsError(f"{path}: {path.parent} lacks {listed(missing)}, which it names")
    return where


def _check_total(path: Path, metadata: object, tensors: Mapping[str, Tensor], exact: bool) -> None:
    """`total_size`, if any. save_model's is exact.

    Others write the files' sizes, or count all the memory that a tensor is a slice of: more is no sign of an
    error. And transformers once took a bool for a bit.
    """
    if metadata is not None and not isinstance(metadata, dict):
        raise WeightsError(f"{path}: its metadata must be an object, not {excerpt(metadata)}")
    total = (metadata or {}).get("total_size")
    if total is None:
        return
    size = sum(each.nbytes for each in tensors.values())
    bits = sum(each.nbytes for each in tensors.values() if each.dtype == torch.bool)
    is_more = type(total) in (int, float) and total > size and not exact
    if not (is_more or total in (size, size - bits + bits / 8)):
        raise WeightsError(f"{path}: its total_size is {excerpt(total)}, and its tensors take {size} bytes")


def _shared(path: Path, metadata: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """What the metadata of all the files say. Those of one run must agree about the run."""
    (first, said), *others = metadata.items()
    for file, other in others:
        for key in _RUN_KEYS:
            if said.get(key) != other.get(key):
                raise WeightsError(
                    f"{path}: its files are of different runs: {key} is {excerpt(said.get(key))} in {first} "
                    f"and {excerpt(other.get(key))} in {file}"
                )
    return {key: value for key, value in said.items() if all(other.get(key) == value for _, other in others)}
