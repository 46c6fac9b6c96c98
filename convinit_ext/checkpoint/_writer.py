"""Files that are whole or not there: written under a temporary name, flushed to the disk, then renamed.

A thread writes one block while the next one is made. All that concerns the file is that thread's: it opens
and closes it, renames it or removes it. Signals interrupt the main thread alone, so nothing of this is left
half done, whatever a handler raises, and however often. Knows bytes alone.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import io
import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 25
_PREFIX, _SUFFIX, _LOCK_SUFFIX = ".", ".partial", ".lock"
_OTHER_WRITES = "another process is writing this file"
_POLL_SECONDS = 0.02  # how soon a thread sees that the other one has stopped


def temporary_of(name: str) -> str:
    """What a file is called until it is whole; no loader takes it for weights."""
    return f"{_PREFIX}{name}{_SUFFIX}"


def lock_of(name: str) -> str:
    """What the file is called that is locked while a file, or all files of a folder, are written."""
    return f"{_PREFIX}{name}{_LOCK_SUFFIX}"


def write_file(
    path: Path,
    num_bytes: int,
    blocks: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> None:
    """Write a file; what was there before stays until the new one is whole.

    `blocks` gives its bytes in order, made in the uint8 buffers that it is given, in turn; `advance` is told
    of each that was written.

    Raises:
        OSError: the disk is full, or another process is writing the file; it names the file.
        After an error, an interrupt too, the temporary file is gone, and nothing is written any more.
    """
    size = min(BLOCK_BYTES, num_bytes)
    buffers = [torch.empty(size, dtype=torch.uint8, device="cpu") for _ in range(2)]
    writer = _Writer(path, num_bytes)
    try:
        writer.start()
        pending = 0
        for block in blocks(buffers):
            writer.todo.put(block.numpy().data)
            pending += 1
            if pending == 2:  # the next block is made where the older of the two was
                advance(writer.result())
                pending -= 1
        writer.todo.put(None)
        for _ in range(pending):
            advance(writer.result())
        writer.result()
    finally:
        writer.stopped = True  # no call before it: an interrupt comes where one begins or ends
        try:
            writer.wait()
        finally:  # one that came where `wait` begins or ends
            try:
                writer.wait()
            finally:
                writer.wait()


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


class _StoppedError(Exception):
    """The one that makes the blocks has given up."""


class _Writer:
    """A thread that writes one file, of blocks that another thread puts into `todo`, then None.

    Once the other thread has set `stopped`, no block follows, and a file that is not whole is to go. Locks
    could stay locked where an interrupt comes: there are none but a queue's, which is made for it.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.todo: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self.stopped = False
        self._path, self._num_bytes = path, num_bytes
        self._done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
        self._begun = self._ended = False

    def start(self) -> None:
        """Start the thread, and wait until it has the file."""
        _thread.start_new_thread(self._run, ())  # threading's waits for an Event, whose lock may be lost
        self.result()

    def result(self) -> int:
        """Return the size of a block once it is written, in order, 0 of the file; or raise its error."""
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def wait(self) -> None:
        """Wait until the thread leaves the file alone, and raise only then what an interrupt raises."""
        interrupt: BaseException | None = None
        while self._begun and not self._ended:  # one that begins later sees `stopped`
            try:
                while not self._ended:
                    time.sleep(_POLL_SECONDS)
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # whose traceback has this frame: a circle would keep the caller's lock

    def _run(self) -> None:
        self._begun = True
        try:
            if not self.stopped:
                self._write_file()
            self._done.put(0)
        except BaseException as error:
            self._done.put(error)
        finally:
            self._ended = True

    def _write_file(self) -> None:
        temporary = self._path.with_name(temporary_of(self._path.name))
        try:
            with _open_alone(temporary) as file:
                try:
                    self._write_blocks(file)
                    os.replace(temporary, self._path)
                    sync_folder(self._path.parent)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:  # names the file that the caller knows
            raise type(error)(error.errno, error.strerror, str(self._path)) from error

    def _write_blocks(self, file: io.FileIO) -> None:
        file.truncate()
        self._done.put(0)
        while (block := self._next_block()) is not None:
            self._done.put(_write(file.fileno(), block))
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        if size != self._num_bytes:
            raise OSError(errno.EIO, f"{size} bytes are in the file, and it should have {self._num_bytes}")

    def _next_block(self) -> memoryview | None:
        while not self.stopped:
            with contextlib.suppress(queue.Empty):
                return self.todo.get(timeout=_POLL_SECONDS)
        raise _StoppedError


def _write(descriptor: int, block: memoryview) -> int:
    begin = os.lseek(descriptor, 0, os.SEEK_CUR)
    done = 0
    while done < len(block):
        done += os.write(descriptor, block[done:])
    if hasattr(os, "posix_fadvise"):
        # Linux then begins to write to the disk, which otherwise would wait for the flush at the end.
        os.posix_fadvise(descriptor, begin, done, os.POSIX_FADV_DONTNEED)
    return done


def _open_alone(path: Path) -> io.FileIO:
    """Open a file that no other process has opened so; it is made if it is missing, and not emptied.

    It is locked until it is closed; a process that ends, however, leaves no lock. Raises BlockingIOError
    where another process has it, FileExistsError if it is no plain file.
    """
    _check_plain(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    file = io.FileIO(path, "w", opener=lambda name, _: os.open(name, flags, 0o666))
    if not _is_alone(file.fileno(), path):
        file.close()
        raise BlockingIOError(errno.EWOULDBLOCK, _OTHER_WRITES)
    return file


def _check_plain(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, f"remove {path.name!r} beside it first, which is no plain file")


def _is_alone(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    # the other process may have renamed or removed it, before the lock was free; a link is not the file
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.lstat())


class Lock:
    """A file that one run has to itself, to be entered by `with`: it is removed at the end.

    Interrupts may come at any moment: what one kept from being done is done by the next of `__exit__`'s two
    tries, or when the lock is no longer used.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: io.FileIO | None = None

    def take(self, path: Path) -> None:
        """Open and lock the file, which is made if it is missing; the errors are those of _open_alone."""
        _check_plain(path)
        self._path = path
        try:
            # C code alone: no interrupt comes between the descriptor and what closes it. No local variable
            # has it: an interrupt's traceback would keep it open, and locked.
            self._file = io.FileIO(path, "a")
            if not _is_alone(self._file.fileno(), path):
                raise BlockingIOError(errno.EWOULDBLOCK, _OTHER_WRITES)
        except OSError:
            if self._file is not None:
                self._file.close()
            self._path = self._file = None
            raise

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        except BaseException:
            self.release()
            raise

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file, if this run has it, and let others make theirs."""
        if self._path is None:
            return
        if self._file is None:  # an interrupt came where it was opened
            with contextlib.suppress(OSError):
                self._file = io.FileIO(self._path, "a")
        if self._file is not None and not self._file.closed:
            if _is_alone(self._file.fileno(), self._path):  # not if an interrupt came before it was locked
                self._path.unlink(missing_ok=True)  # before another run can have it
            self._file.close()
        self._path = self._file = None
