"""`python -m convinit_ext verify`: what it prints, and that its exit status tells the three answers apart."""

import json
from pathlib import Path

import pytest
import torch
from command_models import MINE, SMALL, small

from convinit_ext import init_model_
from convinit_ext.__main__ import main

safetensors = pytest.importorskip("safetensors.torch")


def saved(path: Path, seed: int = 7, recipe: object = "he", metadata: dict[str, str] | None = None) -> str:
    model = small()
    init_model_(model, seed, recipe)
    safetensors.save_file(model.state_dict(), path, metadata)
    return str(path)


def run(*arguments: str) -> int:
    return main(["verify", "--model", SMALL, *arguments])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return saved(tmp_path / "model.safetensors")


def test_the_three_answers(capsys, path):
    assert run(path, "--seed", "7", "--recipe", "he", "--threads", str(torch.get_num_threads())) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("equal: 9 tensors, 293 elements compared")
    assert err == ""
    assert run(path, "--seed", "8", "--recipe", "he") == 1
    out, err = capsys.readouterr()
    assert "216 of 216 differ" in out and "not equal: 9 tensors, 2 of them different" in out
    assert err == ""
    assert run(path, "--seed", "7", "--recipe", "he", "--only", "5") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("convinit_ext verify: error: only chooses nothing by '5'") and err.count("\n") == 1


def test_a_part_and_a_dtype_and_json(capsys, path):
    assert run(path, "--seed", "8", "--recipe", "he", "--only", "1", "--skip", "*.bias", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["name"] == "1.weight" and told["equal"] is True
    assert run(path, "--seed", "7", "--recipe", "he", "--dtype", "bfloat16", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert {problem["kind"] for problem in told["problems"]} == {"dtype"}


def test_recipes_of_modules_and_models_that_need_the_cpu(capsys, tmp_path):
    path = saved(tmp_path / "mine.safetensors", recipe=MINE)
    assert run(path, "--seed", "7", "--recipe", "command_models:MINE") == 0
    build = ["verify", path, "--model", "command_models:only_on_the_cpu", "--recipe", "command_models:MINE"]
    assert main([*build, "--seed", "7", "--construct", "cpu"]) == 0
    assert main([*build, "--seed", "7"]) == 2
    assert "the model's constructor raised AssertionError" in capsys.readouterr().err


def test_what_the_file_says_is_taken_where_nothing_else_is_said(capsys, tmp_path):
    metadata = {"seed": "7", "recipe": "he", "contract": "1"}
    path = saved(tmp_path / "model.safetensors", metadata=metadata)
    assert run(path) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith("recipe he, seed 7")
    assert err.splitlines() == [f"notice: seed 7, as {path} says", f"notice: recipe he, as {path} says"]
    assert run(path, "--seed", "7", "--recipe", "he") == 0
    assert capsys.readouterr().err == ""
    assert run(path, "--seed", "9") == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith("recipe he, seed 9")
    assert err.splitlines()[0] == f"notice: seed 9, as given, though {path} says 7"


def test_a_recipe_that_is_called_as_a_ready_made_one_is_asked_for(capsys, tmp_path):
    mine = tmp_path / "he.toml"
    mine.write_text('extends = "he"\n[[rules]]\nname = "2.weight"\ninit = "ones_"\n')
    for recipe, said in ((str(mine), "he.toml"), ("command_models:NAMED", "custom (gpt)")):
        path = str(tmp_path / f"{said}.safetensors")
        command = ["run", "--model", SMALL, "--save", path, "--seed", "7", "--recipe", recipe]
        assert main(command) == 0
        assert run(path) == 2
        assert f"says recipe {said!r}, which is none of ours; pass --recipe" in capsys.readouterr().err
        assert run(path, "--recipe", recipe) == 0


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"seed": "many"}, "'many' is not a seed"),
        ({"recipe": "custom"}, "says recipe 'custom', which is none of ours"),
        ({"contract": "99"}, "99"),
        ({"contract": "one"}, "one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_metadata_that_is_of_no_use_is_named(capsys, tmp_path, metadata, said):
    path = saved(tmp_path / "model.safetensors", metadata=metadata)
    assert run(path) == 2
    err = capsys.readouterr().err
    assert said in err and path in err


@pytest.mark.parametrize("what", ["missing", "cut", "foreign", "empty folder"])
def test_files_that_cannot_be_read_are_named(capsys, tmp_path, path, what):
    if what == "cut":
        Path(path).write_bytes(Path(path).read_bytes()[:-5])
    elif what == "foreign":
        torch.save({"weight": torch.zeros(3)}, path)
    elif what == "missing":
        Path(path).unlink()
    else:
        Path(path).unlink()
        path = str(tmp_path)
    assert run(path, "--seed", "7", "--recipe", "he") == 2
    out, err = capsys.readouterr()
    assert out == "" and path in err and err.count("\n") == 1


def test_no_path_is_not_the_current_folder(capsys, path, monkeypatch):
    monkeypatch.chdir(Path(path).parent)
    for arguments in (["verify", "", "--model", SMALL, "--recipe", "he"], ["fingerprint", ""]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and "the path is empty" in err


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("a_script:build", "he"),
        ("command_models:ends", "he"),
        (SMALL, "a_script:MINE"),
        (SMALL, "command_models:ENDING"),
    ],
)
def test_what_users_code_raises_is_no_answer(capsys, path, tmp_path, monkeypatch, model, recipe):
    assert run(path, "--recipe", "command_models:ODD") == 2
    assert "no such thing" in capsys.readouterr().err
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = ["--model", model, "--recipe", recipe]
    for arguments in (["verify", path, *chosen], ["fingerprint", *chosen]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and "SystemExit: 0" in err
    assert main(["run", "--model", "a_script:build", "--save", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_has_to_be_said_and_help_tells_the_exit_status(capsys, path):
    for arguments, status in ((["verify", path], 2), (["verify", "--help"], 0)):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == status
    out, err = capsys.readouterr()
    assert "--model" in err
    told = "Exit status: 0 all is equal, 1 something differs or is missing, 2 it could"
    assert told in " ".join(out.split())
