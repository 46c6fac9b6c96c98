"""Which files a model is saved to, and the bytes of each: the layout of huggingface_hub, and of transformers
and diffusers, whose configuration is beside the weights so that from_pretrained finds it.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.checkpoint._safetensors import LENGTH_BYTES
from convinit_ext.model import DTYPES, Drawn, Given, Piece, SavedTensor, fill_pieces, slabs, walk
from convinit_ext.sharding import Part

_METADATA = "__metadata__"
_UNITS = {"": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for unit, base in (("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Z]*)\s*", re.IGNORECASE)
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_PAIRED = torch.float4_e2m1fn_x2  # two elements to a byte, and PyTorch counts the bytes
_RANKS = {code: rank for rank, code in enumerate(DTYPES)}


def parsed_size(size: int | str) -> int:
    """Return the bytes of a number or a text such as "5GB", "500 MB" or "2GiB"; else ValueError or TypeError.

    >>> parsed_size("5GB"), parsed_size("1.5KiB"), parsed_size(7)
    (5000000000, 1536, 7)
    """
    if isinstance(size, bool) or not (isinstance(size, str) or hasattr(size, "__index__")):
        raise TypeError(f"max_shard_size must be a number of bytes or a text, not {type(size).__name__}")
    parts = _SIZE.fullmatch(str(size))
    unit = parts.group(2).upper() if parts else None
    num_bytes = float(parts.group(1)) * _UNITS[unit] if parts and unit in _UNITS else 0.0
    if not 1 <= num_bytes < math.inf:
        raise ValueError(
            f"max_shard_size {size!r} is no size; accepted are bytes, and texts such as '5GB' or '2GiB'"
        )
    return int(num_bytes)


@dataclass(frozen=True, eq=False)
class ShardFile:
    """A safetensors file as it will be: name, tensors in the order of their bytes, and metadata."""

    name: str
    tensors: Sequence[SavedTensor]
    metadata: Mapping[str, str]

    @cached_property
    def head(self) -> bytes:
        described: dict[str, object] = {_METADATA: self.metadata} if self.metadata else {}
        begin = 0
        for each in self.tensors:
            end = begin + each.num_bytes
            code, shape = _CODES[each.dtype], list(each.shape)
            if each.dtype == _PAIRED:
                shape[-1] *= 2
            described[each.name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)  # so that every element lies where its type may
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    @property
    def num_bytes(self) -> int:
        return len(self.head) + sum(each.num_bytes for each in self.tensors)

    def blocks(self, seed: int, buffers: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the file's bytes, made in turn in these buffers, uint8 tensors of one size."""
        head = torch.frombuffer(bytearray(self.head), dtype=torch.uint8)
        given = SavedTensor("", torch.uint8, (len(head),), Given(head))
        turns = itertools.cycle(buffers)
        drawn: list[Piece] = []
        buffer, used = next(turns), 0
        for each in (given, *self.tensors):
            for ranges in slabs(each.shape, len(buffer) // each.dtype.itemsize):
                sizes = tuple(map(len, ranges))
                num_bytes = math.prod(sizes) * each.dtype.itemsize
                if used + num_bytes > len(buffer):
                    fill_pieces(seed, drawn)
                    yield buffer[:used]
                    buffer, used, drawn = next(turns), 0, []
                part = Part(buffer[used : used + num_bytes].view(each.dtype).view(sizes), ranges)
                used += num_bytes
                if isinstance(each.values, Drawn):
                    drawn += each.values.pieces(part)
                else:
                    each.values.write_(seed, part)
        fill_pieces(seed, drawn)
        yield buffer[:used]


def shard_files(
    tensors: Sequence[SavedTensor], max_bytes: int | None, base: str, metadata: Mapping[str, str]
) -> list[ShardFile]:
    """Return the files of a model, in the order of the state dict, split as huggingface_hub splits them.

    A file's tensors have `max_bytes` at the most, unless one alone has more; None is one file. ValueError
    says that a tensor has the name that the format keeps for metadata.
    """
    if any(each.name == _METADATA for each in tensors):
        raise ValueError(f"a safetensors file cannot hold a tensor named {_METADATA!r}; rename the parameter")
    groups = [list(tensors)] if max_bytes is None else _groups(tensors, max_bytes)
    names = [f"{base}-{index + 1:05d}-of-{len(groups):05d}.safetensors" for index in range(len(groups))]
    if len(groups) == 1:
        names = [f"{base}.safetensors"]
    for group in groups:  # as the format's library orders them: wide elements first, then by name
        group.sort(key=lambda each: (-_RANKS[_CODES[each.dtype]], each.name.encode()))
    return [ShardFile(name, group, metadata) for name, group in zip(names, groups, strict=True)]


def _groups(tensors: Iterable[SavedTensor], max_bytes: int) -> list[list[SavedTensor]]:
    groups: list[list[SavedTensor]] = []
    group: list[SavedTensor] = []
    size = 0
    for each in tensors:
        if each.num_bytes > max_bytes:
            groups.append([each])
            continue
        if size + each.num_bytes > max_bytes:
            groups.append(group)
            group, size = [], 0
        group.append(each)
        size += each.num_bytes
    return [*groups, group] if group or not groups else groups


def index_text(files: Sequence[ShardFile]) -> bytes:
    """The index of several files, as transformers and diffusers read it."""
    where = {entry.name: file.name for file in files for entry in file.tensors}
    total = sum(entry.num_bytes for file in files for entry in file.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()


def base_name(model: nn.Module) -> str:
    """Of the files of weights: diffusers has its own."""
    return "diffusion_pytorch_model" if _is_of_diffusers(walk.unwrapped(model)) else "model"


def config_files(model: nn.Module, dtype: torch.dtype | None) -> dict[str, bytes]:
    """Return the files by name; none where the model has no configuration.

    They say this dtype, in which from_pretrained then loads the weights; for float8, in which it makes no
    model, the model's own.
    """
    found: Any = walk.unwrapped(model)
    with tempfile.TemporaryDirectory() as folder:
        if _is_of_diffusers(found):
            found.save_config(folder)
        elif callable(getattr(getattr(found, "config", None), "save_pretrained", None)):
            config = copy.deepcopy(found.config)
            config.architectures = [_class_name(found)]
            if dtype is not None:
                wide = dtype if dtype.itemsize > 1 else _wide_dtype(found)
                setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", wide)
            config.save_pretrained(folder)
        return {each.name: _of_class(each, found) for each in sorted(Path(folder).iterdir())}


def _of_class(path: Path, model: nn.Module) -> bytes:
    """A file's content; diffusers' says the class of the model, which may be one that FSDP made."""
    made, own = (
        json.dumps({"_class_name": name})[1:-1] for name in (type(model).__name__, _class_name(model))
    )
    return path.read_bytes().replace(made.encode(), own.encode())


def _class_name(model: nn.Module) -> str:
    """Of what was wrapped in place: fully_shard, replicate and parametrizations derive classes from it."""
    classes = (each for each in type(model).__mro__ if issubclass(each, nn.Module))
    return next((each for each in classes if not each.__module__.startswith("torch.")), type(model)).__name__


def _wide_dtype(model: nn.Module) -> torch.dtype:
    dtypes = (each.dtype for each in model.parameters() if each.is_floating_point() and each.itemsize > 1)
    return next(dtypes, torch.get_default_dtype())


def _is_of_diffusers(model: Any) -> bool:
    return callable(getattr(model, "save_config", None))
