"""Where a model is saved: what is in the way there, what an earlier run has done, whether there is room."""

from __future__ import annotations

import errno
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from convinit_ext._engine import listed
from convinit_ext.checkpoint._layout import ShardFile
from convinit_ext.checkpoint._safetensors import FILE_SUFFIX, WeightsError
from convinit_ext.checkpoint._writer import Lock, lock_of, sync_folder, temporary_of, write_bytes
from convinit_ext.model import size_text


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """All that is to be written, and where."""

    folder: Path
    base: str | None  # how the names of all files of weights start; None where only one file is meant
    files: list[ShardFile]  # of weights
    configs: dict[str, bytes]  # what is beside them, by name
    index: dict[str, bytes]  # likewise, where there are several files

    def make_room(self, overwrite: bool, lock: Lock) -> set[str]:
        """Leave the folder ready for the files that are not there yet, and return those that are.

        The lock is taken: no other run changes anything here until it is released.

        Raises:
            WeightsError: something else is there, and is not to be replaced; nothing was changed.
            OSError: the disk has not enough space; the folder cannot be made; another run saves here.
        """
        self._look(overwrite)  # nothing is made, not even a lock, where it is refused
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.take(self.folder / self._lock_name)
        except BlockingIOError as error:
            text = "another run is saving here; wait until it has ended, or save elsewhere"
            raise BlockingIOError(error.errno, text, str(self.folder / self._lock_name)) from error
        done, stale = self._look(overwrite)  # again: another run may have ended meanwhile
        if len(done) < len(self.files):
            stale = [*self.index, *stale]  # even if it is right: without it nothing looks whole
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        sync_folder(self.folder)
        self._write_texts(self.configs)
        return done

    def _look(self, overwrite: bool) -> tuple[set[str], list[str]]:
        """The files that are whole, and what is to be removed first; raises what is in the way."""
        if self.folder.exists() and not self.folder.is_dir():
            raise WeightsError(f"{self.folder} is a file, and a folder is needed, or a name in .safetensors")
        done = {
            file.name for file in self.files if _holds(self.folder / file.name, file.head, file.num_bytes)
        }
        others = self._others(done)
        self._check_others(others, overwrite)
        stale = sorted(filter(self._is_weights, others), key=lambda each: not each.endswith(".json"))
        self._check_space(done, stale)
        return done, stale

    @property
    def _lock_name(self) -> str:
        return lock_of(f"{self.base}{FILE_SUFFIX}" if self.base else self.files[0].name)

    def finish(self, lock: Lock) -> None:
        """Writes the index, once all files are there; then other runs may come."""
        self._write_texts(self.index)
        lock.release()

    def _write_texts(self, texts: dict[str, bytes]) -> None:
        for name, content in texts.items():
            if not _holds(self.folder / name, content, len(content)):
                write_bytes(self.folder / name, content)

    def _others(self, done: set[str]) -> list[str]:
        """What is there and neither done nor a leftover."""
        texts = self.configs | self.index
        ours = done | {name for name, text in texts.items() if _holds(self.folder / name, text, len(text))}
        ours |= {temporary_of(name) for name in (*texts, *(file.name for file in self.files))}
        ours.add(self._lock_name)
        if self.base is None:
            names = [file.name for file in self.files if (self.folder / file.name).exists()]
        else:
            names = sorted(each.name for each in self.folder.iterdir()) if self.folder.is_dir() else []
        return [name for name in names if name not in ours]

    def _check_others(self, others: list[str], overwrite: bool) -> None:
        if others and not overwrite:
            raise WeightsError(
                f"{self.folder} holds something else than these files of this model and seed: "
                f"{listed(others)}; overwrite=True (--overwrite) replaces weights and config"
            )
        targets = {*self.configs, *(file.name for file in self.files)}
        folders = [name for name in others if (self.folder / name).is_dir()]
        blocked = [name for name in folders if name in targets or self._is_weights(name)]
        if blocked:
            raise WeightsError(f"{self.folder}: {listed(blocked)} must be a file, and is a folder")

    def _is_weights(self, name: str) -> bool:
        """Whether a loader, or a later run, would take it for a part of these weights."""
        if self.base is None:
            return False  # the one file is replaced when the new one is whole
        numbered = rf"{re.escape(self.base)}(-\d+-of-\d+)?\.safetensors"
        return re.fullmatch(rf"{numbered}(\.index\.json)?|\.{numbered}\.partial", name) is not None

    def _check_space(self, done: set[str], stale: list[str]) -> None:
        needed = sum(file.num_bytes for file in self.files if file.name not in done)
        leftovers = (temporary_of(file.name) for file in self.files)
        freed = [self.folder / name for name in (*stale, *leftovers)]
        disk = next(each for each in (self.folder, *self.folder.absolute().parents) if each.is_dir())
        free = shutil.disk_usage(disk).free + sum(each.stat().st_size for each in freed if each.is_file())
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{size_text(needed)} are to be written, and {size_text(free)} are free",
                str(disk),
            )


def _holds(path: Path, start: bytes, num_bytes: int) -> bool:
    """Whether there is a file of this size that starts so."""
    if not path.is_file() or path.stat().st_size != num_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start
