"""Weights on disk: a safetensors file, an index of several, or a folder that holds either.

Reads heads at once and tensors in blocks of bounded memory; knows no models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convinit_ext.checkpoint._file_header import StoredTensor, WeightsError, parsed_object, read_head
from convinit_ext.keys import CONTRACT_VERSION

__all__ = ["StoredTensor", "Weights", "WeightsError", "blocks", "check_contract", "open_weights"]

FILE_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_INDEX = re.compile(r"\.safetensors\.index(\.[^.]+)?\.json$")  # a variant, such as fp16, has its name in it
_BASE_NAMES = ("model", "diffusion_pytorch_model")  # of transformers, and of diffusers
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}\.safetensors$")
_RUN_KEYS = ("contract", "seed", "recipe", "plan")  # of one run, whose files all say the same
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file, or an index with its files, holds.

    Args:
        tensors: by name, in the order of the files and of the bytes in them.
        metadata: what all the files say alike.
        paths: the files.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    paths: tuple[Path, ...]


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Read and check the heads of a safetensors file, of an index's files, or of what a folder holds.

    Args:
        path: a safetensors file, an index named *.safetensors.index.json, or a folder with one of them.

    Raises:
        WeightsError: a file that is missing, foreign, cut short or damaged, an index that disagrees with its
            files or names one elsewhere, a folder with no weights or with more than one set, no path at all.
    """
    if not os.fspath(path):
        raise WeightsError("the path is empty; accepted are a safetensors file, an index, and a folder")
    path = Path(path)
    try:
        path = _found(path)
        if _INDEX.search(path.name):
            return _open_index(path)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    tensors, metadata = read_head(path)
    return Weights({each.name: each for each in tensors}, metadata, (path,))


def check_contract(weights: Weights) -> None:
    """Raise WeightsError if the files name a version of the value contract that is not known here."""
    version = weights.metadata.get("contract")
    if version is not None and version != str(CONTRACT_VERSION):
        raise WeightsError(
            f"{weights.paths[0]}: its values follow version {version!r} of the value contract; "
            f"this release knows {CONTRACT_VERSION}"
        )


def blocks(stored: StoredTensor, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
    """A tensor of a file in the order of its bytes, a block at a time.

    Args:
        stored: where it is.
        block_bytes: memory to use, in bytes; at least an element's worth is.

    Yields:
        The row-major index of the block's first element, and the block: one-dimensional, on the CPU, valid
        until the next one.

    Raises:
        WeightsError: the file became shorter, or cannot be read.
    """
    itemsize = stored.dtype.itemsize
    step = max(1, block_bytes // itemsize) * itemsize
    buffer = torch.empty(min(step, stored.num_bytes), dtype=torch.uint8, device="cpu")
    memory = buffer.numpy().data
    try:
        with stored.path.open("rb", buffering=0) as file:
            _announce(file.fileno(), stored)
            file.seek(stored.begin)
            for begin in range(0, stored.num_bytes, step):
                size = min(step, stored.num_bytes - begin)
                done = 0
                while done < size:
                    num_read = file.readinto(memory[done:size])
                    if not num_read:
                        raise WeightsError(
                            f"{stored.path}: the file became shorter while tensor {stored.name!r} was read"
                        )
                    done += num_read
                yield begin // itemsize, buffer[:size].view(stored.dtype)
    except OSError as error:
        raise WeightsError(f"{stored.path}: {error.strerror}") from error


def _announce(descriptor: int, stored: StoredTensor) -> None:
    """Linux then reads ahead further."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, stored.begin, stored.num_bytes, os.POSIX_FADV_SEQUENTIAL)


def _found(path: Path) -> Path:
    if path.is_dir():
        return _found_in(path)
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file")
    if not path.is_file():
        raise WeightsError(f"{path}: must be a file or a folder")
    return path


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
        raise WeightsError(
            f"{folder} holds more than one set of weights: {_listed(usual or whole)}; name one"
        )
    if found:
        raise WeightsError(f"{folder} holds shards without their index {INDEX_SUFFIX!r}: {_listed(found)}")
    raise WeightsError(f"{folder} holds no safetensors file; there is {_listed(names) or 'nothing'}")


def _open_index(path: Path) -> Weights:
    content = parsed_object(path, path.read_bytes(), "it")
    where = _checked_map(path, content.get("weight_map"))
    files = {name: read_head(path.parent / name) for name in dict.fromkeys(where.values())}
    tensors: dict[str, StoredTensor] = {}
    for file, (held, _) in files.items():
        for each in held:
            if where.get(each.name) != file:
                said = f"in {where[each.name]}" if each.name in where else "nowhere"
                raise WeightsError(f"{path} says that tensor {each.name!r} is {said}; it is in {file}")
            tensors[each.name] = each
    missing = [name for name in where if name not in tensors]
    if missing:
        raise WeightsError(f"{path} says that {where[missing[0]]} holds {_listed(missing)}, and it does not")
    paths = tuple(path.parent / name for name in files)
    shared = _shared(path, {name: metadata for name, (_, metadata) in files.items()})
    _check_total(path, content.get("metadata"), tensors, exact="plan" in shared)
    return Weights(tensors, shared, paths)


def _checked_map(path: Path, where: object) -> dict[str, str]:
    """The index's names of tensors and of files: all of the files are there, beside it."""
    if not isinstance(where, dict) or not where:
        raise WeightsError(f"{path}: must have a weight_map, tensors' and files' names, that is not empty")
    for name, file in where.items():
        if not isinstance(file, str) or _leaves_folder(file):
            raise WeightsError(
                f"{path}: tensor {name!r} is said to be in {file!r}; accepted are files of the same folder"
            )
    missing = [file for file in dict.fromkeys(where.values()) if not (path.parent / file).is_file()]
    if missing:
        raise WeightsError(f"{path}: {path.parent} lacks {_listed(missing)}, which it names")
    return where


def _leaves_folder(file: str) -> bool:
    return file in ("", ".", "..") or any(each in file for each in "/\\\0:")


def _check_total(path: Path, metadata: object, tensors: Mapping[str, StoredTensor], exact: bool) -> None:
    """`total_size`, if any. save_model's is exact.

    Others write the files' sizes, or count all the memory that a tensor is a slice of: more is no sign of an
    error. And transformers once took a bool for a bit.
    """
    if metadata is not None and not isinstance(metadata, dict):
        raise WeightsError(f"{path}: its metadata must be an object, not {metadata!r}")
    total = (metadata or {}).get("total_size")
    if total is None:
        return
    size = sum(each.num_bytes for each in tensors.values())
    bits = sum(each.num_bytes for each in tensors.values() if each.dtype == torch.bool)
    is_more = type(total) in (int, float) and total > size and not exact
    if not (is_more or total in (size, size - bits + bits / 8)):
        raise WeightsError(f"{path}: its total_size is {total!r}, and its tensors take {size} bytes")


def _shared(path: Path, metadata: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """What the metadata of all the files say. Those of one run must agree about the run."""
    (first, said), *others = metadata.items()
    for file, other in others:
        for key in _RUN_KEYS:
            if said.get(key) != other.get(key):
                raise WeightsError(
                    f"{path}: its files are of different runs: {key} is {said.get(key)!r} in {first} "
                    f"and {other.get(key)!r} in {file}"
                )
    return {key: value for key, value in said.items() if all(other.get(key) == value for _, other in others)}


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
