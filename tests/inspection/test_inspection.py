"""What an Inspection is as a text, JSON and a picture; matplotlib is imported only where it is asked for."""

import json
import sys

import pytest
import torch
from torch import nn

from convinit_ext import inspect_model
from convinit_ext.recipes import Recipe, Rule


def net() -> nn.Module:
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    return nn.ModuleDict({"first_of_all_stages": nn.Sequential(nn.Sequential(inner))})["first_of_all_stages"]


def deep() -> nn.Module:
    outer = net()
    for _ in range(8):
        outer = nn.Sequential(outer)
    return outer


def test_one_recipe_is_a_table_of_layers_and_one_of_weights():
    found = inspect_model(net(), recipe="torch", seed=5)
    lines = str(found).splitlines()
    assert lines[0] == "Sequential, torch, seed 5; inputs: float32 [16, 8], guessed from 0.0.0 (Linear)"
    assert lines[2].split() == ["layer", "type", "output", "std", "gradient", "std"]
    row, weight = found.rows[0], found.weights[0]
    assert lines[4].split() == ["0.0.0", "Linear", f"{row.std:.3g}", f"{row.gradient_std:.3g}"]
    assert lines[8].split() == ["weight", "shape", "intended", "std", "measured"]
    assert lines[10].split() == ["0.0.0.weight", "8x8", f"{weight.intended:.3g}", f"{weight.std:.3g}"]
    assert lines[-1] == "no problems found"


def test_several_recipes_are_columns_side_by_side():
    found = inspect_model(net(), recipe=["he", "xavier"])
    lines = found.text(80).splitlines()
    assert lines[2].split() == ["layer", "type", "he", "gradient", "std", "xavier", "gradient", "std"]
    he, xavier = (row for row in found.rows if row.name == "0.0.2")
    assert [he.recipe, xavier.recipe] == ["he", "xavier"]
    numbers = [f"{number:.3g}" for row in (he, xavier) for number in (row.std, row.gradient_std)]
    assert lines[6].split() == ["0.0.2", "Linear", *numbers]
    assert not any(line.startswith("0.0.0.bias") for line in lines)  # zero, as intended
    assert len(found.rows) == 6 and len(found.weights) == 8


def test_the_text_fits_the_terminal(monkeypatch):
    found = inspect_model(deep(), recipe=["he", "xavier"])
    monkeypatch.setenv("COLUMNS", "70")
    lines = str(found).splitlines()[1:]
    assert max(map(len, lines)) <= 70
    assert any(line.startswith("0.0.0.0.") and "..weight" not in line and ".." in line for line in lines)
    assert any(line.startswith("0.0.0.0.0.0.0.0.0.0.0.weight") for line in found.text(200).splitlines())


def test_problems_are_counted_and_wrapped():
    model = net()
    nn.init.zeros_(model[0][0][0].weight)
    text = inspect_model(model).text(40)
    assert "\n1 problem found:\ndead: the output of 0.0.0 (Linear) is\n  the same for every input" in text
    tiny = [Rule(lambda target: torch.full_like(target.tensor, 0.0, device="cpu"))]
    found = inspect_model(model, recipe=[Recipe(tuple(tiny), name="nil"), "he"])
    assert "problems found:\nnil: dead" in str(found)


def test_json_has_everything():
    found = inspect_model(net(), recipe="he")
    facts = json.loads(found.to_json())
    assert facts["rows"][0]["std"] == found.rows[0].std
    assert facts["weights"][0]["counts"] == list(found.weights[0].counts)
    assert facts["weights"][1]["elsewhere"] == 0
    assert (facts["recipes"], facts["problems"], facts["seed"]) == (["he"], [], 0)
    assert json.loads(inspect_model(net()).to_json())["weights"][0]["intended"] is None


def test_a_picture_without_matplotlib_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*: pip install matplotlib"):
        inspect_model(net()).plot(tmp_path / "out.png")


@pytest.mark.parametrize("recipe", [None, "he", ["he", "xavier", "trunc_normal"]])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures(tmp_path, recipe, kind):
    pytest.importorskip("matplotlib")
    inspect_model(net(), recipe=recipe).plot(tmp_path / f"out.{kind}")
    written = (tmp_path / f"out.{kind}").read_bytes()
    assert written.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[kind])
    if kind == "svg" and isinstance(recipe, list):
        assert all(f"<!-- {name} -->".encode() in written for name in recipe)


def test_a_model_with_nothing_to_draw_has_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    model = nn.Sequential(nn.Linear(4, 4))
    nn.init.zeros_(model[0].weight)
    inspect_model(model.requires_grad_(False)).plot(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_what_is_wrong_with_a_path_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    found = inspect_model(net())
    with pytest.raises(ValueError, match=r"must end in one of .*png.*, not as '.*out'"):
        found.plot(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*missing' for the picture"):
        found.plot(tmp_path / "missing" / "out.png")
