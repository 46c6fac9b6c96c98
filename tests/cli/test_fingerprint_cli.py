"""`python -m convinit_ext fingerprint`, and the fingerprint of an initialisation that nobody has done."""

import json

import pytest
import torch
from command_models import MINE, SMALL, small
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from convinit_ext import fingerprint, fingerprints, init_model_, plan_model
from convinit_ext.__main__ import main
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule

save_file = pytest.importorskip("safetensors.torch").save_file


@pytest.fixture
def model() -> nn.Module:
    model = small()
    init_model_(model, 7, "he")
    return model


@pytest.fixture
def path(model: nn.Module, tmp_path) -> str:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def run(*arguments: str) -> int:
    return main(["fingerprint", *arguments])


def test_of_a_file(capsys, model, path):
    assert run(path) == 0
    assert capsys.readouterr().out == f"{fingerprint(model)}\n"
    assert run(path, "--each") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [*(f"{each}  {name}" for name, each in fingerprints(path).items()), fingerprint(model)]
    assert run(path, "--each", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"fingerprint": fingerprint(model), "tensors": fingerprints(model)}


def test_of_an_initialisation(capsys, model):
    threads = str(torch.get_num_threads())
    assert run("--model", SMALL, "--seed", "7", "--recipe", "he", "--threads", threads) == 0
    assert capsys.readouterr().out == f"{fingerprint(model)}\n"
    assert run("--model", SMALL, "--recipe", "command_models:MINE", "--dtype", "bfloat16") == 0
    init_model_(model, 0, MINE, dtype=torch.bfloat16)
    assert capsys.readouterr().out == f"{fingerprint(model)}\n"


def test_expect(capsys, model, path):
    assert run(path, "--expect", fingerprint(model)) == 0
    capsys.readouterr()
    assert run(path, "--expect", "0" * 32) == 1
    out, err = capsys.readouterr()
    assert out == f"{fingerprint(model)}\n"
    assert err == f"convinit_ext fingerprint: it is {fingerprint(model)}, and not {'0' * 32}\n"
    with pytest.raises(SystemExit, match="2"):
        run("here", "--expect", "12")
    assert "'12' is not a fingerprint, 32 digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say either a PATH or --model"),
        (["here", "--model", SMALL], "say either a PATH or --model"),
        (["--model", SMALL, "--each"], "--each is for a PATH"),
        (["here", "--seed", "0"], "--seed is for --model"),
        (["here", "--recipe", "torch"], "--recipe is for --model"),
        (["here", "--dtype", "float32"], "--dtype is for --model"),
        (["here", "--construct", "meta"], "--construct is for --model"),
        (["nowhere.safetensors"], "nowhere.safetensors"),
        (["--model", "no_such_module:build"], "no_such_module"),
    ],
    ids=str,
)
def test_what_cannot_be_done(capsys, arguments, said):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("convinit_ext fingerprint: error: ") and said in err


def test_run_prints_it(capsys, model):
    command = ["run", "--model", SMALL, "--seed", "7", "--recipe", "he", "--no-compare"]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(f"\nfingerprint {fingerprint(model)}\n")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["fingerprint"] == fingerprint(model)
    assert main([*command, "--dry-run"]) == 0
    assert "fingerprint" not in capsys.readouterr().out


class Everything(nn.Module):
    """A parameter of each kind that a plan knows, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, padding_idx=2)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.copy = nn.Embedding(10, 4)
        self.given = nn.Linear(3, 2, bias=False)
        self.normed = weight_norm(nn.Linear(20, 30))
        self.normed_columns = weight_norm(nn.Linear(20, 30), dim=1)
        self.spectral = spectral_norm(nn.Conv2d(3, 4, 3))
        self.norm = nn.BatchNorm2d(8)
        self.large = nn.Linear(3000, 3001)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_of_a_plan(dtype: torch.dtype | None):
    copied, given = CopyFrom("embed.weight"), Preset(torch.arange(6.0).view(2, 3))
    model, rules = Everything(), [Rule(copied, name="copy.weight"), Rule(given, name="given.weight"), *TORCH]
    if dtype == torch.float8_e4m3fn:
        model, rules = small(), TORCH
    plan = plan_model(model, 3, rules, dtype=dtype)
    before = fingerprint(model)
    planned, other = plan.fingerprint(), plan.fingerprint(seed=4)
    assert fingerprint(model) == before
    plan.run()
    assert fingerprint(model) == planned != other
    plan.run(seed=4)
    assert fingerprint(model) == other
