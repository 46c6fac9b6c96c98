"""Signals whose handlers raise while save_model writes: nothing is written elsewhere, or left half done."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import weakref

import pytest
import torch
from torch import nn

from convinit_ext import save_model, verify
from convinit_ext.checkpoint import _writer as file_writer

pytestmark = pytest.mark.filterwarnings(  # an interrupt may hit a destructor, or a callback of gc
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Interrupt(BaseException):
    pass


@contextlib.contextmanager
def interrupts(first: float, every: float, count: int, ended: threading.Event | None = None):
    """Raise Interrupt in this thread after so many seconds, and again: as Ctrl-C is pressed twice. After none
    it is another's to set the timer. The last one sets `ended`.
    """
    left = [count]

    def handler(*_: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if ended is not None:
                ended.set()
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, first, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(True)  # PyTorch's no_grad() may have been left half way


def slow(function, ended, first, every):
    """Return a function that takes longer; its first call sets the timer and waits for the last interrupt."""
    calls = iter([True])

    def slowed(*arguments):
        if next(calls, False):
            signal.setitimer(signal.ITIMER_REAL, first, every)
            ended.wait(60)
        time.sleep(0.1)
        return function(*arguments)

    return slowed


def model() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(200, 200) for _ in range(3)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("module", "name"), [(file_writer, "_write"), (os, "fsync"), (os, "replace"), (os, "open")]
)
def test_an_interrupt_while_the_disk_is_slow(tmp_path, monkeypatch, module, name, count):
    """The descriptor is not closed under the thread, whose number then would be that of another file."""
    ended = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, slow(getattr(module, name), ended, 0.05, 0.03))
        with pytest.raises(Interrupt), interrupts(0.0, 0.03, count, ended):
            save_model(model(), tmp_path / "out.safetensors")
        with (tmp_path / "users.log").open("wb") as mine:
            mine.write(b"hello\n")
            mine.flush()
            time.sleep(0.5)
    assert (tmp_path / "users.log").read_bytes() == b"hello\n"
    whole = ["out.safetensors"] * (name == "replace")  # it was whole already, and only its name was missing
    assert sorted(os.listdir(tmp_path)) == [*whole, "users.log"]
    assert bool(save_model(model(), tmp_path / "out.safetensors").skipped) == bool(whole)
    assert verify(tmp_path / "out.safetensors", model=model())


def test_interrupts_at_any_moment(tmp_path, monkeypatch):
    """Files of final names are whole, there are no others, no descriptor is open, the same call ends it."""
    monkeypatch.setattr(file_writer, "BLOCK_BYTES", 1 << 12)
    arguments = {"max_shard_size": "100KB", "overwrite": True}
    seconds = []
    for number in range(3):  # the first may take much longer than those to be interrupted
        began = time.perf_counter()
        files = save_model(model(), tmp_path / f"whole {number}", **arguments).files
        seconds.append(time.perf_counter() - began)
    sizes = {each.name: each.num_bytes for each in files}
    descriptors, num_interrupted = os.listdir("/proc/self/fd"), 0
    gc.freeze()  # what is there already need not be looked at again and again
    for step in range(40):
        folder, whose = tmp_path / f"out {step}", model()  # PyTorch's own modes do not stand an interrupt
        try:
            with interrupts(1e-4 + min(seconds) * step / 40, 0.002, 1 + step % 3):
                save_model(whose, folder, seed=step, **arguments)
        except Interrupt:
            num_interrupted += 1
        there = {each.name: each.stat().st_size for each in folder.iterdir()} if folder.is_dir() else {}
        index = there.pop("model.safetensors.index.json", None)
        assert there.items() <= sizes.items() and (index is None or there == sizes)
        save_model(model(), folder, seed=step, **arguments)
        assert verify(folder, seed=step, model=model())
        gc.collect()  # an interrupt's traceback may hold a file that is closed with it
        assert os.listdir("/proc/self/fd") == descriptors
    gc.unfreeze()
    assert num_interrupted > 10 and torch.empty(0).device.type == "cpu"


class InterruptAt:
    """Raise Interrupt in this thread where the given step of these modules' code is about to be taken."""

    def __init__(self, step: int, *modules: object) -> None:
        self.left = step
        self._files = {module.__file__ for module in modules}

    def __enter__(self) -> InterruptAt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame, event, _):
        if frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event in {"call", "opcode"}:
            self.left -= 1
            if self.left == -1:
                sys.settrace(None)
                raise Interrupt
        return self._trace


def test_interrupts_at_every_step_of_the_lock(tmp_path):
    """No file stays, whatever was about to be done; and it is gone before the collector of garbage comes."""
    path, step, ends = tmp_path / ".lock", 0, []

    def run() -> bool:
        with (
            InterruptAt(step, file_writer) as interrupt,
            contextlib.suppress(Interrupt),
            file_writer.Lock() as lock,
        ):
            lock.take(path)
        return interrupt.left >= 0

    gc.disable()
    try:
        while not run():
            ends.append(path.exists())
            step += 1
            file_writer.Lock().take(path)  # it is free, and is given back at once
    finally:
        gc.enable()
    assert len(ends) > 100
    assert not any(ends), ends.index(True)
    assert not path.exists()


def test_an_interrupt_leaves_no_circle_of_references(tmp_path, monkeypatch):
    """What the caller has, a lock above all, goes with the interrupt."""

    class Mine:
        pass

    def save() -> weakref.ref:
        mine = Mine()
        alive.append(weakref.ref(mine))
        save_model(model(), tmp_path / "out.safetensors")

    alive, ended = [], threading.Event()
    monkeypatch.setattr(file_writer, "_write", slow(file_writer._write, ended, 0.05, 0.03))
    gc.disable()
    try:
        with contextlib.suppress(Interrupt), interrupts(0.0, 0.03, 3, ended):
            save()
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("given", [3, 7])
def test_a_file_of_another_length_gets_no_name(tmp_path, given):
    blocks = [torch.zeros(given, dtype=torch.uint8)]
    with pytest.raises(OSError, match=f"{given} bytes are in the file, and it should have 5: '.*a.bin'"):
        file_writer.write_file(tmp_path / "a.bin", 5, lambda _: blocks)
    assert not os.listdir(tmp_path)
