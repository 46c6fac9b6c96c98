"""save_model where the disk, an interrupt, a signal or another run is in the way; what is left afterwards."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from saving import assert_same_values, filled, on_meta, rule_model, snapshot

from convinit_ext import save_model, verify
from convinit_ext.checkpoint import _destination as destination
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._safetensors import WeightsError


class Stop(BaseException):
    pass


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
