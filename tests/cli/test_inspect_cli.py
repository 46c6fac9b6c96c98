"""`python -m convinit_ext inspect`: what it prints, and errors before the work that they would spoil."""

import json
import sys

import pytest
import torch
from command_models import seeing_twice

from convinit_ext import inspect_model
from convinit_ext.__main__ import main

MODELS = "command_models"
NET = "deep_net:build"


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend("examples")


def run(*arguments: str) -> int:
    return main(["inspect", "--model", *arguments])


def test_it_prints_what_inspect_model_finds(capsys):
    assert run(NET, "--recipe", "xavier", "--recipe", f"{MODELS}:NAMED", "--seed", "3") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        "Sequential, xavier, gpt, seed 3; inputs: float32 [16, 256], guessed from 0 (Linear)\n"
    )
    assert "gpt: exploding outputs: " in out and "xavier: " not in out


def test_a_model_as_it_is_has_the_values_that_the_seed_gives_its_constructor(capsys):
    assert run(f"{MODELS}:seeing_twice", "--inputs", f"{MODELS}:pair", "--json", "--seed", "5") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["inputs"] == "float32 [2, 3], float32 [2, 4]" and first["recipes"] == ["as it is"]
    torch.manual_seed(5)
    found = inspect_model(seeing_twice(), (torch.ones(2, 3), torch.ones(2, 4)), seed=5)
    assert first["rows"][0]["std"] == found.rows[0].std
    assert run(f"{MODELS}:seeing_twice", "--inputs", f"{MODELS}:PAIR", "--json", "--seed", "5") == 0
    assert json.loads(capsys.readouterr().out) == first


def test_weights_are_held_against_an_expected_recipe(capsys):
    assert run(NET, "--expected", "torch") == 0
    assert "not as intended" not in capsys.readouterr().out
    assert run(NET, "--expected", "he", "--threads", str(torch.get_num_threads())) == 0
    assert "not as intended: 0.weight (std" in capsys.readouterr().out


def test_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(NET, "--recipe", "he", "--plot", str(tmp_path / "out.png")) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "no problems found" in capsys.readouterr().out


def test_a_picture_that_cannot_be_is_said_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("no_such_module:build", "--plot", str(tmp_path / "out.png")) == 1
    err = capsys.readouterr().err
    assert err.startswith("convinit_ext inspect: error: a picture needs matplotlib, which is not installed: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([f"{MODELS}:seeing_twice"], "no inputs of Bilinear could be guessed"),
        ([f"{MODELS}:seeing_twice", "--inputs", f"{MODELS}:nothing"], f"inputs '{MODELS}:nothing': "),
        ([f"{MODELS}:seeing_twice", "--inputs", f"{MODELS}:raising"], f"inputs '{MODELS}:raising' raised"),
        ([f"{MODELS}:seeing_twice", "--inputs", f"{MODELS}:SMALL"], "inputs must be a tensor, a tuple"),
        ([f"{MODELS}:raising"], "constructor raised RuntimeError: no blueprint"),
        ([f"{MODELS}:uncovered", "--recipe", "he"], "scale [3] of Module"),
        ([NET, "--recipe", "he", "--expected", "he"], "expected= is for a model as it is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fails_is_named_and_status_1(capsys, arguments, said):
    assert run(*arguments) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model"),
        (["--model", NET, "--recipe", "soup"], "no recipe 'soup'"),
        (["--model", NET, "--inputs", "../mine:batch"], "is not of the form"),
    ],
)
def test_wrong_usage_is_status_2(capsys, arguments, said):
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", *arguments])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
