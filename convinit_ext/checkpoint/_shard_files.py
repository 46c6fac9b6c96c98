"""Which tensors go into which safetensors file, and the bytes of each file: the layout of huggingface_hub.

Nothing here touches a disk.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convinit_ext.checkpoint._file_header import LENGTH_BYTES, PAIRED
from convinit_ext.model import DTYPES, Drawn, Entry, Fill, write_drawn_

_METADATA = "__metadata__"
_UNITS = {"": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for unit, base in (("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Z]*)\s*", re.IGNORECASE)
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_RANKS = {code: rank for rank, code in enumerate(DTYPES)}


def parsed_size(size: int | str) -> int:
    """Bytes, of a number or a text such as "5GB", "500 MB" or "2GiB".

    Raises:
        ValueError: another text, or less than a byte.
        TypeError: neither a number nor a text.

    >>> parsed_size("5GB"), parsed_size("1.5KiB"), parsed_size(7)
    (5000000000, 1536, 7)
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
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
    """A safetensors file as it will be.

    Args:
        name: of the file.
        entries: its tensors, in the order of their bytes.
        metadata: of the whole file.
    """

    name: str
    entries: Sequence[Entry]
    metadata: Mapping[str, str]

    @cached_property
    def head(self) -> bytes:
        described: dict[str, object] = {_METADATA: self.metadata} if self.metadata else {}
        begin = 0
        for each in self.entries:
            end = begin + each.num_bytes
            code, shape = _CODES[each.dtype], list(each.shape)
            if code == PAIRED:
                shape[-1] *= 2
            described[each.name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)  # so that every element lies where its type may
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    @cached_property
    def _begins(self) -> list[int]:
        begins = [len(self.head)]
        for each in self.entries:
            begins.append(begins[-1] + each.num_bytes)
        return begins

    @property
    def num_bytes(self) -> int:
        return self._begins[-1]

    def write_(self, block: Tensor, begin: int) -> None:
        """Makes the uint8 block the file's bytes from `begin` on, a multiple of 16."""
        end = begin + len(block)
        head = self.head[begin:end]
        if head:
            block[: len(head)].copy_(torch.frombuffer(bytearray(head), dtype=torch.uint8))
        drawn = []
        for index in range(max(0, bisect.bisect_right(self._begins, begin) - 1), len(self.entries)):
            entry, first = self.entries[index], self._begins[index]
            start, stop = max(begin, first), min(end, first + entry.num_bytes)
            if first >= end:
                break
            if start >= stop:
                continue
            part = block[start - begin : stop - begin].view(entry.dtype)
            at = (start - first) // entry.dtype.itemsize
            if isinstance(entry.content, Drawn):
                drawn.append(Fill(entry.content, part, at))
            else:
                entry.content.write_(part, at)
        write_drawn_(drawn)


def shard_files(
    entries: Sequence[Entry], max_bytes: int | None, base: str, metadata: Mapping[str, str]
) -> list[ShardFile]:
    """The files of a model, split as huggingface_hub's split_state_dict_into_shards_factory splits it.

    Args:
        entries: in the order of the state dict.
        max_bytes: of a file's tensors, unless one alone has more; None is one file.
        base: of the files' names.
        metadata: of every file.

    Raises:
        ValueError: a tensor of the name that the format keeps for metadata.
    """
    if any(each.name == _METADATA for each in entries):
        raise ValueError(f"a safetensors file cannot hold a tensor named {_METADATA!r}; rename the parameter")
    groups = [list(entries)] if max_bytes is None else _groups(entries, max_bytes)
    names = [f"{base}-{index + 1:05d}-of-{len(groups):05d}.safetensors" for index in range(len(groups))]
    if len(groups) == 1:
        names = [f"{base}.safetensors"]
    return [ShardFile(name, _ordered(group), metadata) for name, group in zip(names, groups, strict=True)]


def _groups(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    groups: list[list[Entry]] = []
    group: list[Entry] = []
    size = 0
    for each in entries:
        if each.num_bytes > max_bytes:
            groups.append([each])
            continue
        if size + each.num_bytes > max_bytes:
            groups.append(group)
            group, size = [], 0
        group.append(each)
        size += each.num_bytes
    return [*groups, group] if group or not groups else groups


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    """As the format's library orders them: wide elements first, then by name."""
    return sorted(entries, key=lambda each: (-_RANKS[_CODES[each.dtype]], each.name.encode()))


def index_text(files: Sequence[ShardFile]) -> bytes:
    """The index of several files, as transformers and diffusers read it."""
    where = {entry.name: file.name for file in files for entry in file.entries}
    total = sum(entry.num_bytes for file in files for entry in file.entries)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
