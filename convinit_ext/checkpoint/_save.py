"""save_model: a model's initialisation streamed to disk. The model needs no memory, and gets none."""

from __future__ import annotations

import functools
import hashlib
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from convinit_ext._engine import check_flags, progress_bar, uncompiled
from convinit_ext.checkpoint._destination import Destination
from convinit_ext.checkpoint._layout import (
    ShardFile,
    base_name,
    config_files,
    index_text,
    parsed_size,
    shard_files,
)
from convinit_ext.checkpoint._safetensors import FILE_SUFFIX, INDEX_SUFFIX
from convinit_ext.checkpoint._writer import Lock, write_file
from convinit_ext.keys import CONTRACT_VERSION
from convinit_ext.model import (
    AnyRecipe,
    Frozen,
    Names,
    Options,
    Plan,
    Report,
    SavedTensor,
    Selectors,
    make_plan,
    saved_tensors,
    size_text,
    time_text,
)
from convinit_ext.recipes import RECIPES, Fan, Recipe, as_recipe
from convinit_ext.sharding import gathered, members, place, text_of, together

_SHARD_BYTES = 5 * 10**9  # as huggingface_hub and transformers split unless they are told
# Endings of weights in one file: whoever gives such a path wants no folder of that name.
_OTHER_FILES = (
    ".safetensors .safetensor .bin .ckpt .gguf .h5 .json .msgpack .npy .npz .onnx .pkl .pt .pth .tar .zip"
)


class SavedFile(NamedTuple):
    """A file of weights.

    Args:
        name: in the folder.
        num_bytes: its size.
        skipped: whether it was there already, from an earlier run.
        rank: of the process that wrote it, among all.
    """

    name: str
    num_bytes: int
    skipped: bool
    rank: int


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What save_model did; `print(report)` shows a line a file.

    Args:
        folder: where the files are.
        files: of weights, those of all ranks.
        plan: what each parameter got.
        seconds: of the whole call.
    """

    folder: Path
    files: tuple[SavedFile, ...]
    plan: Report
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Written by this run; without the files that were there already."""
        return sum(file.num_bytes for file in self.files if not file.skipped)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the files that were there already."""
        return tuple(file.name for file in self.files if file.skipped)

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """Everything in it but the plan, as numbers, strings, lists and dicts."""
        return {
            "folder": str(self.folder),
            "files": [file._asdict() for file in self.files],
            "skipped": list(self.skipped),
            "num_bytes": self.num_bytes,
            "seconds": self.seconds,
            "bytes_per_second": self.bytes_per_second,
        }

    def summary(self) -> str:
        """The totals in a line."""
        num_written = len(self.files) - len(self.skipped)
        skipped = f"; {len(self.skipped)} skipped, there already" if self.skipped else ""
        return (
            f"{self.folder}: {num_written} file{'s' * (num_written != 1)}, {size_text(self.num_bytes)} "
            f"written in {time_text(self.seconds)} ({size_text(self.bytes_per_second)}/s){skipped}"
        )

    def __str__(self) -> str:
        lines = [
            f"{file.name}  {file.num_bytes:,}{'  skipped' if file.skipped else ''}" for file in self.files
        ]
        return "\n".join([*lines, self.summary()])


@uncompiled
def save_model(
    model: nn.Module,
    path: str | PathLike[str],
    seed: int = 0,
    recipe: AnyRecipe = "torch",
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    max_shard_size: int | str | None = None,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    frozen: Frozen = None,
    like: nn.Module | None = None,
    overwrite: bool = False,
    progress: bool = False,
    group: dist.ProcessGroup | None = None,
) -> SaveReport:
    """Write the safetensors files that init_model_ and then saving would, and never hold the model in memory.

    The model is best on the meta device; nothing of it is changed or allocated. What `only` and `skip` leave
    out is copied from memory. The folder's layout is that of transformers and diffusers, whose models get
    their config beside the weights, so that from_pretrained(folder) loads it. Every file appears when it is
    whole, the index last: a run that was interrupted is finished by the same call, which skips whole files.
    Where torch.distributed is initialised all processes must call it, or those of `group`, and each writes
    its share of the files.

    Args:
        model: any module, as for init_model_. A tied tensor is saved once, under its first name.
        path: a folder, or one file, if it ends in .safetensors; folders that are missing are made.
        seed: as for init_model_, and so are recipe, dtype, fan, only, skip, names, frozen and like.
        max_shard_size: of a file's tensors: bytes, or a text such as "500MB" or "2GiB". None is 5 GB in a
            folder, and no limit for one file.
        overwrite: replace weights and config that are there, if they are others. Other files stay.
        progress: show a tqdm bar that counts bytes; on the first rank alone.
        group: the processes that save this model, where others save other models, as stages of a pipeline,
            each elsewhere. None is all of them.

    Returns:
        A SaveReport: the files, which of them were there already, the bytes and the time.

    Raises:
        ValueError, TypeError: as init_model_; meta tensors that nothing fills; no path; a max_shard_size
            that is none, or less than one file would hold.
        WeightsError: the folder holds something else; it is named, and nothing was written.
        OSError: the disk has not enough space, or was full in the middle; a folder that cannot be written, or
            that another run saves to at this moment.
        RuntimeError: another process failed, or ended; it says which.

    >>> import tempfile
    >>> with torch.device("meta"):
    ...     model = nn.Linear(8, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = save_model(model, folder, seed=7)
    ...     sorted(each.name for each in Path(folder).iterdir()), report.plan.num_elements
    (['model.safetensors'], 36)
    """
    started = time.perf_counter()

    def prepare() -> tuple[Plan, Destination]:
        check_flags(overwrite=overwrite)
        if not isinstance(path, str | PathLike):
            raise TypeError(f"path must be a str or a path, not {type(path).__name__}")
        if path == "":  # the current folder to pathlib, and an unset variable to the user
            raise ValueError("the path is empty; accepted are a folder, and a file in .safetensors")
        suffix = Path(path).suffix
        if suffix.lower() in _OTHER_FILES.split() and suffix != FILE_SUFFIX and not Path(path).is_dir():
            raise ValueError(
                f"{path}: no file in {suffix} is written; accepted are a folder, and a file in .safetensors"
            )
        size = None if max_shard_size is None else parsed_size(max_shard_size)
        rules = as_recipe(recipe)
        options = Options(rules, dtype, fan, only, skip, names, frozen=frozen, like=like, persistent=True)
        plan = make_plan(model, seed, options)
        return plan, _destination(model, plan, Path(path), size, _recipe_name(recipe, rules))

    with torch.no_grad(), Lock() as lock:
        rank, num_ranks = place(group)
        plan, destination = together(prepare, group)
        _check_same(destination, group)
        room = together(lambda: destination.make_room(overwrite, lock) if rank == 0 else set(), group)
        done = gathered(room, group)[0]
        owners = _owners([file for file in destination.files if file.name not in done], num_ranks)
        mine = [file for file in destination.files if owners.get(file.name) == rank]
        together(lambda: _write(destination.folder, mine, plan.seed, progress and rank == 0), group)
        together(lambda: destination.finish(lock) if rank == 0 else None, group)
        ranks = members(group)
    files = [
        SavedFile(each.name, each.num_bytes, each.name in done, ranks[owners.get(each.name, 0)])
        for each in destination.files
    ]
    seconds = time.perf_counter() - started
    return SaveReport(destination.folder, tuple(files), plan.report(seconds), seconds)


def _recipe_name(given: object, recipe: Recipe) -> str:
    """What the files say of the recipe: the name of a ready-made one only if it is that one."""
    if RECIPES.get(recipe.name, recipe) is recipe:
        return recipe.name
    return Path(given).name if isinstance(given, str | PathLike) else f"custom ({recipe.name})"


def _destination(model: nn.Module, plan: Plan, path: Path, max_bytes: int | None, recipe: str) -> Destination:
    found = saved_tensors(model, plan)
    metadata = {
        "contract": str(CONTRACT_VERSION),
        "format": "pt",  # transformers asks for it
        "plan": _digest(found, plan.seed),
        "recipe": recipe,
        "seed": str(plan.seed),
    }
    if path.suffix == FILE_SUFFIX:
        _check_fits(path, found, max_bytes)
        files = shard_files(found, None, path.name.removesuffix(FILE_SUFFIX), metadata)
        return Destination(path.parent, None, files, {}, {})
    base = base_name(model)
    files = shard_files(found, max_bytes or _SHARD_BYTES, base, metadata)
    dtype = next((each.dtype for each in found if each.dtype.is_floating_point), None)
    index = {f"{base}{INDEX_SUFFIX}": index_text(files)} if len(files) > 1 else {}
    return Destination(path, base, files, config_files(model, dtype), index)


def _check_fits(path: Path, found: list[SavedTensor], max_bytes: int | None) -> None:
    num_bytes = sum(each.num_bytes for each in found)
    if max_bytes is not None and num_bytes > max_bytes:
        raise ValueError(
            f"{path} would be one file of {size_text(num_bytes)}, more than max_shard_size, "
            f"{size_text(max_bytes)}; give a folder, whose files are split, or leave max_shard_size out"
        )


def _digest(found: list[SavedTensor], seed: int) -> str:
    """Of all that decides the files' values: a run knows its own files by it."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=16)
    for each in found:
        digest.update(f"{each.name!r} {each.dtype} {each.shape} {each.values.text()}\n".encode())
    return digest.hexdigest()


def _check_same(destination: Destination, group: dist.ProcessGroup | None) -> None:
    """The ranks share one model's files."""
    heads = hashlib.blake2b(b"".join(file.head for file in destination.files)).hexdigest()
    others = gathered((str(destination.folder.absolute()), heads), group)
    (first, expected), *rest = zip(members(group), others, strict=True)
    different = [rank for rank, other in rest if other != expected]
    if different:
        raise ValueError(
            f"all ranks must save the same model to the same place; other than on rank {first} it is on "
            f"{text_of(different)}; group= names the ranks that save one model, such as those of a stage"
        )


def _owners(files: list[ShardFile], num_ranks: int) -> dict[str, int]:
    """Which rank writes which file: large ones first, each to who has least."""
    loads = [0] * num_ranks
    owners = {}
    for file in sorted(files, key=lambda each: -each.num_bytes):
        rank = loads.index(min(loads))
        owners[file.name] = rank
        loads[rank] += file.num_bytes
    return owners


def _write(folder: Path, files: list[ShardFile], seed: int, progress: bool) -> None:
    total = sum(file.num_bytes for file in files)
    with progress_bar(total if progress else None, "save_model") as advance:
        for file in files:
            write_file(folder / file.name, file.num_bytes, functools.partial(file.blocks, seed), advance)
