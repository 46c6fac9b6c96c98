"""save_model where a disk, an interrupt, another run or a file is in the way; what is left afterwards."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_saving import filled, load_file, on_meta, rule_model

from convinit_ext import save_model, verify
from convinit_ext.checkpoint import _destination as destination
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._safetensors import WeightsError, open_weights


class Stop(BaseException):
    pass


def snapshot(folder):
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in Path(folder).iterdir()}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), Stop()], ids=["full", "stop"]
)
@pytest.mark.parametrize("num_calls", range(6))
def test_an_interrupted_run_leaves_whole_files_and_is_finished_by_the_next(
    tmp_path, monkeypatch, num_calls, error
):
    """Five files: it stops while the first, the second, ..., or the index is written."""
    folder = tmp_path / "out"
    write, calls = file_writer._write, iter(range(100))

    def failing(descriptor, block):
        if next(calls) == num_calls:
            os.write(descriptor, block[:3])
            raise error
        return write(descriptor, block)

    monkeypatch.setattr(file_writer, "_write", failing)
    with pytest.raises(type(error)) as raised:
        save_model(on_meta(rule_model), folder, max_shard_size=200)
    name = (
        f"model-0000{num_calls + 1}-of-00005.safetensors" if num_calls < 5 else "model.safetensors.index.json"
    )
    if isinstance(error, OSError):
        assert str(folder / name) in str(raised.value) and "No space left" in str(raised.value)
    left = snapshot(folder)
    assert sorted(left) == [f"model-0000{index + 1}-of-00005.safetensors" for index in range(num_calls)]
    monkeypatch.setattr(file_writer, "_write", write)
    report = save_model(on_meta(rule_model), folder, max_shard_size=200)
    assert report.skipped == tuple(sorted(left))
    assert snapshot(folder).items() >= left.items()  # not even touched
    assert_same_values(folder, filled(rule_model))
    again = save_model(on_meta(rule_model), folder, max_shard_size=200)
    assert len(again.skipped) == 5 and again.num_bytes == 0
    assert "5 skipped" in again.summary() and "skipped" in str(again)


def assert_same_values(folder, tensors):
    weights = open_weights(folder)
    assert weights.tensors.keys() == tensors.keys()
    for path in weights.paths:
        for name, tensor in load_file(path).items():
            assert tensor.equal(tensors[name])


def test_leftovers_are_replaced(tmp_path):
    (tmp_path / ".model.safetensors.partial").write_bytes(b"x" * 10_000)
    save_model(rule_model(), tmp_path)
    assert_same_values(tmp_path, filled(rule_model))
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("../other"), os.mkfifo])
def test_no_leftover_leads_elsewhere(tmp_path, make):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / ".model.safetensors.partial")
    with pytest.raises(OSError, match=r"remove '\.model\.safetensors\.partial' beside it first"):
        save_model(rule_model(), tmp_path / "out")
    assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "out" / "model.safetensors").exists()


IN_THE_WAY = [
    "README.md",
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "other.safetensors",
    ".model-00001-of-00009.safetensors.partial",
]


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_a_folder_that_holds_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    before = snapshot(tmp_path)
    with pytest.raises(
        WeightsError, match=f"{re.escape(str(tmp_path))} holds something else.*: {name}; overwrite"
    ):
        save_model(rule_model(), tmp_path, max_shard_size=200)
    assert snapshot(tmp_path) == before
    save_model(rule_model(), tmp_path, max_shard_size=200, overwrite=True)
    assert_same_values(tmp_path, filled(rule_model))
    assert (tmp_path / name).exists() == (
        name in ("README.md", "other.safetensors", "model.safetensors.index.json")
    )
    assert ((tmp_path / name).exists() and (tmp_path / name).read_bytes() == b"precious") == (
        name in ("README.md", "other.safetensors")
    )


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"recipe": "he"}, {"dtype": torch.float16}, {"names": {"0": "x"}}], ids=str
)
@pytest.mark.parametrize("max_bytes", [200, 10**6])
def test_files_of_another_run(tmp_path, changed, max_bytes):
    save_model(rule_model(), tmp_path, max_shard_size=max_bytes)
    before = snapshot(tmp_path)
    with pytest.raises(WeightsError, match="holds something else"):
        save_model(rule_model(), tmp_path, max_shard_size=max_bytes, **changed)
    assert snapshot(tmp_path) == before
    report = save_model(rule_model(), tmp_path, max_shard_size=max_bytes, overwrite=True, **changed)
    assert not report.skipped
    assert_same_values(tmp_path, filled(rule_model, **changed))


def test_values_in_memory_tell_runs_apart(tmp_path):
    model = rule_model()
    save_model(model, tmp_path / "a.safetensors", only="0")
    assert save_model(model, tmp_path / "a.safetensors", only="0").skipped
    with torch.no_grad():
        model[1].weight[3, 2] += 1
    with pytest.raises(WeightsError, match=r"holds something else.*: a.safetensors"):
        save_model(model, tmp_path / "a.safetensors", only="0")
    save_model(model, tmp_path / "a.safetensors", only="0", overwrite=True)
    assert load_file(tmp_path / "a.safetensors")["1.weight"].equal(model[1].weight)


def test_a_damaged_file_is_not_taken_for_a_whole_one(tmp_path):
    save_model(rule_model(), tmp_path, max_shard_size=200)
    os.truncate(tmp_path / "model-00002-of-00005.safetensors", 300)
    with pytest.raises(WeightsError, match="model-00002-of-00005"):
        save_model(rule_model(), tmp_path, max_shard_size=200)
    (tmp_path / "model-00002-of-00005.safetensors").unlink()
    assert len(save_model(rule_model(), tmp_path, max_shard_size=200).skipped) == 4


def test_interrupted_overwriting_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    save_model(rule_model(), tmp_path, max_shard_size=200)

    def stop(descriptor, block):
        raise Stop

    monkeypatch.setattr(file_writer, "_write", stop)
    with pytest.raises(Stop):
        save_model(rule_model(), tmp_path, seed=1, max_shard_size=200, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_a_single_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    (tmp_path / "other.txt").write_text("stays")
    path = tmp_path / "a.safetensors"
    save_model(rule_model(), path)
    before = path.read_bytes()

    def stop(descriptor, block):
        raise Stop

    monkeypatch.setattr(file_writer, "_write", stop)
    with pytest.raises(Stop):
        save_model(rule_model(), path, seed=1, overwrite=True)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "other.txt"]


def test_one_file_is_no_larger_than_asked(tmp_path):
    num_bytes = sum(each.nbytes for each in filled(rule_model).values())
    with pytest.raises(ValueError, match=r"a.safetensors would be one file of .* more than max_shard_size"):
        save_model(rule_model(), tmp_path / "a.safetensors", max_shard_size=num_bytes - 1)
    assert not list(tmp_path.iterdir())
    save_model(rule_model(), tmp_path / "a.safetensors", max_shard_size=num_bytes)


def test_places_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the path is empty"):
        save_model(rule_model(), "")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="file is a file, and a folder is needed"):
        save_model(rule_model(), tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="file/b"):
        save_model(rule_model(), tmp_path / "file" / "b")
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"c.safetensors must be a file, and is a folder"):
        save_model(rule_model(), tmp_path / "c.safetensors", overwrite=True)


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_folders_that_are_missing_are_made(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save_model(rule_model(), f"a/b/{name}")
    assert verify(tmp_path / "a" / "b" / name, model=rule_model())


def test_disk_space_is_checked_first(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"\d kB are to be written, and 1.00 kB are free") as raised:
        save_model(rule_model(), tmp_path / "out")
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "out").exists()
    usage.free = 10**6
    save_model(rule_model(), tmp_path / "out", max_shard_size=200)
    (tmp_path / "out" / "model-00002-of-00005.safetensors").unlink()
    usage.free = 1000  # enough for what is missing
    assert len(save_model(rule_model(), tmp_path / "out", max_shard_size=200).skipped) == 4


LIMITED = """
import resource, sys, torch
from convinit_ext import save_model
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_model(torch.nn.Linear(200, 200), sys.argv[1])
"""


def test_a_system_that_refuses_to_write_more(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert f"File too large: '{tmp_path / 'model.safetensors'}'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_second_process_does_not_write_the_same_file(tmp_path):
    def blocks(buffers):
        with pytest.raises(BlockingIOError, match=r"another process.*a.bin'"):
            file_writer.write_bytes(tmp_path / "a.bin", b"other")
        yield buffers[0].zero_()

    file_writer.write_file(tmp_path / "a.bin", 5, blocks)
    assert snapshot(tmp_path)["a.bin"][0] == b"\0" * 5


@pytest.mark.parametrize("name", ["out", "out.safetensors", "out/model.safetensors"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_while_the_first_one_saves(tmp_path, monkeypatch, name, overwrite):
    """At every block of the first one, and at its index; elsewhere there is no need to wait."""
    write, tried = file_writer._write, []
    (tmp_path / "other name").symlink_to(tmp_path / "out")

    def refused(path):
        with pytest.raises((BlockingIOError, WeightsError)) as raised:
            save_model(rule_model(), path, seed=1, overwrite=overwrite)
        if overwrite:
            assert "another run is saving here; wait until it has ended" in str(raised.value)
        tried.append(path)

    def trying(descriptor, block):
        with monkeypatch.context() as once:
            once.setattr(file_writer, "_write", write)
            refused(tmp_path / name)
            refused(str(tmp_path / name).replace("out/", "other name/"))
            save_model(rule_model(), tmp_path / "other.safetensors", overwrite=True)
        return write(descriptor, block)

    monkeypatch.setattr(file_writer, "_write", trying)
    arguments = {} if name.endswith("safetensors") else {"max_shard_size": 200}
    save_model(rule_model(), tmp_path / name, **arguments)
    monkeypatch.undo()
    assert len(tried) == 2 * (6 if arguments else 1)
    assert verify(tmp_path / name, model=rule_model())
    assert not list(tmp_path.rglob(".*"))
    save_model(rule_model(), tmp_path / name, seed=1, overwrite=True)  # nothing is locked any more


@pytest.mark.parametrize("opened", ["lock", "file"])
@pytest.mark.parametrize("there", [False, True], ids=["of nothing", "of a file"])
def test_no_link_is_followed_that_comes_between_the_look_and_the_opening(
    tmp_path, monkeypatch, opened, there
):
    other, path = tmp_path / "other", tmp_path / "opened"
    if there:
        other.write_text("mine")
    looked = Path.is_symlink

    def look(self):
        found = looked(self)
        self.symlink_to(other)
        return found

    with monkeypatch.context() as once:
        once.setattr(Path, "is_symlink", look)
        with pytest.raises(OSError):  # noqa: PT011  # each has its own
            file_writer.Lock().take(path) if opened == "lock" else file_writer._open_alone(path)
    assert path.is_symlink()
    if there:
        assert other.read_text() == "mine"
    elif opened == "file":  # a lock, which is opened without a flag, may make an empty one
        assert not other.exists()
    path.unlink()
    with file_writer.Lock() as lock:  # it was not kept
        lock.take(path)
        assert path.is_file()


HOLDING = """
import os, signal, sys, torch
from convinit_ext import save_model
from convinit_ext.checkpoint import _writer
_writer._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
save_model(torch.nn.Linear(3, 2), sys.argv[1])
"""


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_what_a_killed_process_leaves_is_in_nobodys_way(tmp_path, name):
    done = subprocess.run([sys.executable, "-c", HOLDING, str(tmp_path / name)])
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.rglob(".*"))) == 2
    save_model(torch.nn.Linear(3, 2), tmp_path / name)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1 and not list(tmp_path.rglob(".*"))


WITH_A_SMALL_DISK = 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"'
# 3 of 4 files fit. The disk says that there is room, as where something else takes it afterwards.
SAVE = """
import json, os, shutil, sys, torch
from convinit_ext import save_model, verify

def layers(count):
    with torch.device("meta"):
        return torch.nn.Sequential(*(torch.nn.Linear(500, 500) for _ in range(count)))

def attempt(path, count):
    try:
        save_model(layers(count), path, max_shard_size=None if path != folder else "1100KB")
        error = None
    except OSError as caught:
        error = [caught.errno, str(caught)]
    seen.append([error, sorted(os.listdir(folder))])

folder, usage, seen = sys.argv[1], shutil.disk_usage, []
shutil.disk_usage = lambda path: usage(path)._replace(free=10**12)
attempt(f"{folder}/all.safetensors", 4)
attempt(folder, 4)
attempt(folder, 4)
for each in os.listdir(folder):
    os.remove(f"{folder}/{each}")
attempt(folder, 2)
print(json.dumps([*seen, bool(verify(folder, model=layers(2)))]))
"""


def on_a_small_disk(folder, *command):
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", WITH_A_SMALL_DISK, str(folder), *command],
        capture_output=True,
        text=True,
    )


def test_a_disk_that_is_full_in_the_middle(tmp_path):
    if shutil.which("unshare") is None or on_a_small_disk(tmp_path, "true").returncode:
        pytest.skip("no file system can be mounted here")
    done = on_a_small_disk(tmp_path, sys.executable, "-c", SAVE, str(tmp_path))
    assert not done.returncode, done.stderr
    one, first, again, smaller, verified = json.loads(done.stdout)
    full = f"[Errno {errno.ENOSPC}] No space left on device: '{tmp_path}/"
    whole = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3)]
    assert one == [[errno.ENOSPC, f"{full}all.safetensors'"], []]
    assert first == again == [[errno.ENOSPC, f"{full}model-00004-of-00004.safetensors'"], whole]
    assert smaller[0] is None and len(smaller[1]) == 3 and verified
