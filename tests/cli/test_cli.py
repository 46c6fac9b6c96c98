"""The command line, and `run`: what it prints, its exit statuses, errors of one line that name the thing."""

import json
import re
import sys

import pytest
import torch
from command_models import SMALL, small

from convinit_ext import init_model_
from convinit_ext.__main__ import main
from convinit_ext.cli import _run, _unet

MODELS = "command_models"


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: object) -> int:
    return main(["run", "--model", SMALL, *map(str, arguments)])


def assert_same_as_file(model: torch.nn.Module, path: object) -> None:
    saved = pytest.importorskip("safetensors.torch").load_file(path)
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("recipe", ["torch", "he", f"{MODELS}:MINE"])
def test_run_prints_the_report_and_the_comparison(capsys, recipe):
    assert run("--seed", -5, "--recipe", recipe, "--repeats", 1) == 0
    out, err = capsys.readouterr()
    assert err == "" and "thread" in out.splitlines()[0]
    assert all(each in out for each in ("0.weight", "seed -5", "torch.nn.init", "cold", "warm"))
    assert run("--no-compare", "--construct", "cpu") == 0
    assert "cold" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("theirs", "said"), [([0.8, 0.9, 1.0], ""), ([0.8, 0.9, 1.7], "cold 6.7x to 17.0x"), ([0.8], "")]
)
def test_a_row_whose_repeats_are_far_apart_is_called_noisy(theirs, said):
    case = _run.Case("cold: construct and fill", 1, [0.1, 0.12, 0.11], theirs)
    assert case.noise == said and case.to_dict()["noisy"] is bool(said)


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        (2e-5, 2.67e-5, ["20.00 µs  50.00 MB/s", "26.70 µs  37.45 MB/s", "1.3x"]),
        (4e-3, 1.5, ["4.00 ms  250.00 kB/s", "1.50 s  667 B/s", "375.0x"]),
    ],
)
def test_times_are_shown_in_a_unit_that_fits(ours, theirs, shown):
    assert _run.Case("warm", 1000, [ours], [theirs]).cells() == ["warm", *shown]


def test_no_time_is_shown_as_nothing(tmp_path, capsys):
    """A tiny model takes microseconds, whatever is done with it."""
    assert run("--repeats", 1) == 0 and run("--save", tmp_path) == 0
    assert main(["verify", str(tmp_path), "--model", SMALL]) == 0
    assert not re.search(r"\b0\.0* s", capsys.readouterr().out)


def test_run_says_which_rows_are_noisy(capsys, monkeypatch):
    monkeypatch.setattr(_run, "_NOISE", 0.0)
    assert run("--repeats", 1) == 0
    assert re.search(r"\nnoisy, .*: cold .*x to .*x; warm .*x to .*x; see", capsys.readouterr().out)
    monkeypatch.setattr(_run, "_NOISE", 1e9)
    assert run("--repeats", 1) == 0
    assert "noisy" not in capsys.readouterr().out


def test_run_without_a_model_takes_the_bundled_one_scaled_to_the_memory(capsys, monkeypatch):
    monkeypatch.setattr(_run, "available_memory", lambda: 4 * 10**7)
    assert main(["run", "--repeats", "1"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("notice: 40.00 MB of memory are available")
    assert f"from width {_unet.FULL_WIDTH} to 32" in err
    assert "369 tensors" in out


def test_run_as_json(capsys):
    assert run("--json", "--dtype", "bfloat16", "--threads", 1, "--repeats", 2) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["environment"]["threads"] == 1
    assert {row["dtype"] for row in result["report"]["rows"]} == {"bfloat16"}
    cold, warm = result["comparison"]["cases"]
    assert len(cold["ours"]) == len(warm["theirs"]) == 2


def test_run_takes_a_recipe_from_a_file_and_patterns(capsys, tmp_path):
    path = tmp_path / "halves.json"
    path.write_text('{"extends": "he", "rules": [{"init": "constant_(0.5)", "name": "*.bias"}]}')
    choice = ["--only", "0", "--only", "re:^2[.]", "--only", "0", "--skip", "*.weight"]
    assert run("--recipe", path, "--json", *choice) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"]["recipe"] == "halves"
    assert [row["name"] for row in result["report"]["rows"]] == ["0.bias", "2.bias"]
    assert {row["initialiser"] for row in result["report"]["rows"]} == {"constant_(0.5)"}
    assert "comparison" not in result


def test_rows_of_parameters_and_the_others_are_the_constructors(capsys, tmp_path):
    path = tmp_path / "part.safetensors"
    choice = ["--only", "0.weight[-2:]", "--only", "2.*[1:3]", "--only", "1"]
    torch.manual_seed(5)
    assert run(*choice, "--save", path) == 0
    torch.manual_seed(5)
    model = small()
    init_model_(model, only={"0.weight": slice(-2, None), "2.*": slice(1, 3), "1": slice(None)})
    assert_same_as_file(model, path)
    assert main(["verify", str(path), "--model", SMALL, *choice]) == 0
    assert main(["verify", str(path), "--model", SMALL, "--only", "0.weight[:]"]) == 1
    capsys.readouterr()
    assert run("--only", "0.weight[-2:]", "--dry-run") == 0
    assert "rows 6 to 7 alone" in capsys.readouterr().out
    assert run("--no-compare", "--only", "0.weight[99:]") == 1
    assert "0.weight' of shape [8, 3, 3, 3] has none of these rows" in capsys.readouterr().err


def test_code_that_a_recipes_file_names_needs_allow_code(capsys, tmp_path):
    path, weights = tmp_path / "mine.json", tmp_path / "out.safetensors"
    rule = {"init": f"{MODELS}:a_quarter", "parameter": "weight"}
    path.write_text(json.dumps({"extends": "torch", "rules": [rule]}))
    assert run("--recipe", path, "--no-compare") == 1
    assert "mine.json: rule 1: " in (err := capsys.readouterr().err) and "--allow-code" in err
    assert run("--recipe", path, "--allow-code", "--save", weights) == 0
    command = ["verify", str(weights), "--model", SMALL, "--recipe", str(path)]
    assert main(command) == 2 and "--allow-code" in capsys.readouterr().err
    assert main([*command, "--allow-code"]) == 0


def test_saved_weights_are_the_initialised_ones(tmp_path):
    path = tmp_path / "out.safetensors"
    assert run("--seed", 7, "--save", path, "--no-compare") == 0
    model = small()
    init_model_(model, seed=7)
    assert_same_as_file(model, path)


def test_a_dry_run_prints_the_report_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr("convinit_ext.model._api.run", None)
    assert run("--dry-run") == 0
    out, err = capsys.readouterr()
    assert "planned, nothing done" in out and "0.weight" in out and "cold" not in out
    assert err == ""


def test_info_says_what_is_in_use(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for fact in ("instruction set", "threads", "cuda", "value contract", torch.__version__):
        assert fact in out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value contract"] == 1


NO_SPECS = ["nocolon", ".mine:build", "mine/model.py:build", "mine..model:build", "mine :build"]
NO_SPECS += ["json:decoder.", "json:JSONDecoder:decode"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["walk"], "'walk'"),
        *((["run", "--model", spec], f"{spec!r} is not of the form MODULE:CALLABLE") for spec in NO_SPECS),
        (["run", "--model", "../mine:build"], "as package.module:callable; MODULE is what Python imports"),
        (["run", "--recipe", "../mine:recipe"], "'../mine:recipe' is not of the form"),
        (["verify", "a.safetensors", "--model", "../mine:build"], "is not of the form"),
        (["run", "--recipe", "soup"], "no recipe 'soup'; there are torch, he, xavier"),
        (["run", "--recipe", "soup.yaml"], "'soup.yaml'; there are torch, he"),
        (["run", "--only", "re:("], "'re:(' is no regular expression"),
        (
            ["run", "--only", "0.weight[:2]", "--only", "0.weight[4:]"],
            "'0.weight' stands there twice, with other rows",
        ),
        (["run", "--only", "[0:2]", "--only", "0[2"], "'0[2': its '[' is never closed"),
        (["run", "--skip", ""], "empty pattern"),
        (["run", "--skip", "re:"], "empty pattern"),
        (["run", "--save", ""], "--save is empty"),
        (["run", "--seed", "many"], "'many' is not a seed"),
        (["run", "--seed", str(2**64)], "seed must be in"),
        (["run", "--dtype", "int8"], "'int8'"),
        (["run", "--max-shard-size", "5 XB"], "'5 XB' is no size; accepted are"),
        (["run", "--max-shard-size", "1GB"], "run: error: --max-shard-size is for --save"),
        (["run", "--dry-run", "--save", "out.safetensors"], "no weights that --save could write"),
        (["run", "--overwrite"], "run: error: --overwrite is for --save"),
        (["run", "--threads", "0"], "'0' is not a positive"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_status_2(capsys, arguments, said):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no_such_module_here:build"], "'no_such_module_here:build': No module named"),
        (["--model", f"{MODELS}:no_such_name"], "no_such_name"),
        (["--model", f"{MODELS}:raising"], "raised RuntimeError: no blueprint"),
        (["--save", "/dev/null/folder/out.safetensors"], "Not a directory: '/dev/null/folder'"),
        (["--model", "builtins:dict"], "returned a dict"),
        (["--model", f"{MODELS}:uncovered"], "scale [3] of Module"),
        (["--device", "toaster"], "'toaster'"),
        (["--save", "/"], "/ holds something else"),
        (["--recipe", "/no/such/soup.toml"], "/no/such/soup.toml: there is no such file"),
        (["--only", "3.*"], "only chooses nothing by '3.*'"),
        (["--save", "out.safetensors", "--max-shard-size", "9"], "out.safetensors would be"),
    ],
    ids=lambda value: value[-1].rpartition(":")[2] if isinstance(value, list) else "",
)
def test_what_fails_is_named_and_status_1(capsys, arguments, said):
    assert run("--no-compare", *arguments) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"), [("ImportError", "model 'silent:build': ImportError"), ("ValueError", ": ValueError")]
)
def test_errors_without_a_text_are_said_by_their_type(capsys, tmp_path, monkeypatch, error, said):
    (tmp_path / "silent.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("--model", "silent:build") == 1
    assert said in capsys.readouterr().err


def test_saving_to_a_folder_again_and_over_another(capsys, tmp_path):
    command = ["--save", tmp_path / "out", "--max-shard-size", "500"]
    assert run(*command) == 0
    out, err = capsys.readouterr()
    assert err == "" and "0.weight" in out and "cold" not in out
    assert "2 files, 2.02 kB written in" in out
    assert run(*command, "--json") == 0
    saved = json.loads(capsys.readouterr().out)["saved"]
    assert (saved["num_bytes"], len(saved["skipped"]), len(saved["files"])) == (0, 2, 2)
    assert run(*command, "--seed", 1) == 1
    assert "model-00001-of-00002.safetensors" in capsys.readouterr().err
    assert run(*command, "--seed", 1, "--overwrite") == 0


def test_saving_fills_no_memory_and_needs_no_other_package(tmp_path, monkeypatch):
    monkeypatch.setattr("convinit_ext.model._api.run", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert run("--save", tmp_path / "out") == 0
    assert run("--save", tmp_path / "out.safetensors") == 0


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_filled_and_saved_without_a_comparison(capsys, tmp_path, dtype):
    assert run("--dtype", dtype) == 0
    out, err = capsys.readouterr()
    assert dtype in out and "cold" not in out
    assert err == "notice: PyTorch fills no float8, so the comparison is left out\n"
    assert run("--dtype", dtype, "--save", tmp_path / "out") == 0
