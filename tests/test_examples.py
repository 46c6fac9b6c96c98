"""The examples run, and say what they promise."""

from __future__ import annotations

import importlib
import json

import pytest
from processes import ROOT, run_script

EXAMPLES = ROOT / "examples"


def test_same_weights_anywhere():
    assert run_script(EXAMPLES / "same_weights_anywhere.py").count("True") == 3


def test_shards_that_differ():
    printed = run_script(EXAMPLES / "shards_that_differ.py", 2, torchrun=True)
    assert "convinit_ext:  the two processes have the same values: False, matrix of rank 128" in printed
    assert "the same as in one process: True" in printed
    assert "whether rows or columns are cut: True" in printed


def test_fsdp_and_tp():
    printed = run_script(EXAMPLES / "fsdp_and_tp.py", 4)
    assert "2,104,320 elements, of which this process holds 526,848" in printed
    assert "the same weights as in one process: True" in printed


def test_one_fingerprint_on_any_number_of_processes():
    printed = [run_script(EXAMPLES / "one_fingerprint.py", size).splitlines() for size in (None, 8)]
    assert printed[0] == printed[1]
    assert len(set(printed[0][0].split() + printed[0][1].split()[-1:])) == 2


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
    first = [run_script(EXAMPLES / "digits.py", size).splitlines()[0] for size in (1, 4)]
    losses = [float(line.split()[-1]) for line in first]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6), first
