"""Files that are whole or not there: written under a temporary name, flushed to the disk, then renamed.

A thread writes one block while the next one is made. Knows bytes alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 25
_PREFIX, _SUFFIX = ".", ".partial"


def temporary_of(name: str) -> str:
    """What a file is called until it is whole; no loader takes it for weights."""
    return f"{_PREFIX}{name}{_SUFFIX}"


def write_file(
    path: Path,
    num_bytes: int,
    blocks: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> None:
    """Write a file; what was there before stays until the new one is whole.

    Args:
        path: of the file.
        num_bytes: its size.
        blocks: gives the file's bytes in order, made in the uint8 buffers that it is given, in turn.
        advance: called with the number of bytes of every block that was written.

    Raises:
        OSError: the disk is full, or another process is writing the file; it names the file.
        After an error, an interrupt too, the temporary file is gone.
    """
    temporary = path.with_name(temporary_of(path.name))
    size = min(BLOCK_BYTES, num_bytes)
    buffers = [torch.empty(size, dtype=torch.uint8, device="cpu") for _ in range(2)]
    with _named(path), _locked(temporary) as descriptor:
        try:
            with contextlib.closing(_written(descriptor, blocks(buffers))) as sizes:
                for each in sizes:
                    advance(each)
            os.fsync(descriptor)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of a few bytes."""
    block = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    write_file(path, len(content), lambda buffers: [block])


def sync_folder(folder: Path) -> None:
    """Flushes what is in the folder: the files' names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written(descriptor: int, blocks: Iterable[Tensor]) -> Generator[int, None, None]:
    """Write all blocks, and yield the size of each; one is written while the next one is made."""
    pending: list[Future[int]] = []
    with ThreadPoolExecutor(1) as pool:
        for block in blocks:
            pending.append(pool.submit(_write, descriptor, block.numpy().data))
            if len(pending) == 2:  # the next block is made where the older of the two was
                yield pending.pop(0).result()
        for each in pending:
            yield each.result()


def _write(descriptor: int, block: memoryview) -> int:
    begin = os.lseek(descriptor, 0, os.SEEK_CUR)
    done = 0
    while done < len(block):
        done += os.write(descriptor, block[done:])
    if hasattr(os, "posix_fadvise"):
        # Linux then begins to write to the disk, which otherwise would wait for the flush at the end.
        os.posix_fadvise(descriptor, begin, done, os.POSIX_FADV_DONTNEED)
    return done


@contextlib.contextmanager
def _locked(temporary: Path) -> Iterator[int]:
    """The file, empty and nobody else's: processes of a job without a process group would collide."""
    if temporary.is_symlink() or (temporary.exists() and not temporary.is_file()):
        raise FileExistsError(
            errno.EEXIST, f"remove {temporary.name!r} beside it first, which is no plain file"
        )
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not _is_alone(descriptor, temporary):
            raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing this file")
        os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_alone(descriptor: int, temporary: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    # the other process may have renamed it, before the lock was free
    return temporary.exists() and os.path.samestat(os.fstat(descriptor), temporary.stat())


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the system name the file that the caller knows."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
