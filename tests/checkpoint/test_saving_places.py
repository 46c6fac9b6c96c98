"""Places that save_model is given: those that are none, and what it keeps or refuses there."""

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from saving import assert_same_values, filled, rule_model, snapshot

from convinit_ext import save_model, verify
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._safetensors import WeightsError


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


def test_places_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the path is empty"):
        save_model(rule_model(), "")
    with pytest.raises(TypeError, match="path must be a str or a path, not int"):
        save_model(rule_model(), 3)
    for name in ("model.pt", "model.bin", "model.safetensor", "model.SAFETENSORS", "model.pth.tar", "a.json"):
        with pytest.raises(ValueError, match=rf"{name}: no file in \.\w+ is written; accepted are a folder"):
            save_model(rule_model(), name)
    assert not list(tmp_path.iterdir())
    (tmp_path / "step.ckpt").mkdir()  # a folder that somebody has called so
    save_model(rule_model(), tmp_path / "step.ckpt")
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
