"""The examples run, and say what they promise."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from processes import ROOT, run_script, shared_ranks

from convinit_ext import fingerprint, init_model_

EXAMPLES = ROOT / "examples"
TRAININGS = ["training_by_recipe", "training_by_ranks"]


def test_same_weights_anywhere():
    assert run_script(EXAMPLES / "same_weights_anywhere.py").count("True") == 3


def test_shards_that_differ():
    printed = run_script(EXAMPLES / "shards_that_differ.py", num_processes=2)
    assert "convinit_ext:  the two processes have the same values: False, matrix of rank 128" in printed
    assert "the same as in one process: True" in printed
    assert "whether rows or columns are cut: True" in printed


def test_fsdp_and_tp():
    printed = shared_ranks().run(EXAMPLES / "fsdp_and_tp.py", 4)
    assert "2,104,320 elements, of which this process holds 526,848" in printed
    assert "the same weights as in one process: True" in printed


def test_one_fingerprint_on_any_number_of_processes():
    script = EXAMPLES / "one_fingerprint.py"
    printed = run_script(script).splitlines()
    assert printed == shared_ranks().run(script, 8).splitlines()
    assert len(set(printed[0].split() + printed[1].split()[-1:])) == 2


def test_mup_coordinates(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "coordinates.png"
    widths = ("--widths", "32", "64", "128", "--steps", "2", "--plot", str(picture))
    _, plain, scaled = run_script(EXAMPLES / "mup_coordinates.py", *widths).splitlines()
    assert plain.startswith("he ") and scaled.startswith("mup of he ")
    assert min(map(float, plain.split()[-3:])) > 0.5  # all but the first layer move further in wider nets
    assert max(abs(float(each)) for each in scaled.split()[-4:]) < 0.25
    assert picture.stat().st_size > 10_000


def test_the_notebook(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Its cells in order; it is kept without outputs."""
    names: dict[str, object] = {}
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # of the other tests too
    for cell in json.loads((EXAMPLES / "first_steps.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert "torch.nn:     False" in printed and "convinit_ext: True" in printed
    assert "1 of 640 differ" in printed and "vanishing outputs" in printed


def test_pinned_init(monkeypatch: pytest.MonkeyPatch):
    folder = EXAMPLES / "pinned_init"
    monkeypatch.syspath_prepend(str(folder))
    tests = importlib.import_module("test_pinned")
    tests.test_initialisation_is_the_pinned_one()
    assert f"--expect {tests.PINNED}" in (folder / "workflow.yml").read_text()


def test_digits_start_with_the_same_loss_on_any_number_of_processes():
    pytest.importorskip("sklearn")
    first = [shared_ranks().run(EXAMPLES / "digits.py", size).splitlines()[0] for size in (1, 4)]
    losses = [float(line.split()[-1]) for line in first]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6), first


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for needed in ("matplotlib", "sklearn"):
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


def run_training(name: str, folder: Path, *arguments: object) -> tuple[str, dict]:
    """What it prints, and its record."""
    files = ("--picture", folder / "picture.svg", "--result", folder / "result.json")
    printed = run_script(EXAMPLES / f"{name}.py", *arguments, *files)
    assert "<svg" in (folder / "picture.svg").read_text()
    return printed, json.loads((folder / "result.json").read_text())


def test_training_by_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    example = imported("training_by_recipe", monkeypatch)
    printed, record = run_training("training_by_recipe", tmp_path, "--steps", 2, "--seeds", 2)
    assert example.table(record) in printed
    rows = {(row["norm"], row["recipe"]): row for row in record["rows"] if row["is_recipe"]}
    images, labels, *_ = example.load()
    chosen = torch.randint(len(images), (example.BATCH,), generator=torch.Generator().manual_seed(0))
    for norm, recipe in (("batch", "torch"), ("none", "he")):
        losses = []
        for seed in (0, 1):
            model = example.build(norm)
            init_model_(model, seed=seed, recipe=recipe)
            losses.append(torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen]))
        expected = torch.stack(losses).log10().mean().item()
        assert rows[norm, recipe]["log_loss"][0] == pytest.approx(expected, abs=2e-4)


def test_training_by_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    example = imported("training_by_ranks", monkeypatch)
    printed, record = run_training("training_by_ranks", tmp_path, "--steps", 2, "--ranks", 2)
    assert example.table(record) in printed
    whole = example.Net()
    init_model_(whole, seed=0)
    (row,) = example.curves(record, "convinit")
    assert row["fingerprint"] == fingerprint(whole)
    assert row["loss"] == pytest.approx(example.train(whole, 2), abs=1e-5)
    assert row["different_units"] == row["units"] == 128


@pytest.mark.parametrize("name", TRAININGS)
def test_the_page_has_the_committed_results(name: str, monkeypatch: pytest.MonkeyPatch):
    example = imported(name, monkeypatch)
    record = json.loads((EXAMPLES / "results" / f"{name}.json").read_text())
    page = (ROOT / "docs" / "training.md").read_text()
    assert record["command"] == f"python examples/{name}.py" and f"    {record['command']}\n" in page
    assert example.table(record) in page
    assert (ROOT / "docs" / "images" / f"{name}.svg").stat().st_size < 80_000


@pytest.mark.parametrize("name", ["digits", *TRAININGS])
def test_what_to_install_is_said(name: str, tmp_path: Path):
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\")")
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    (line,) = result.stderr.splitlines()
    assert line.startswith("this example needs scikit-learn") and "pip install scikit-learn" in line
