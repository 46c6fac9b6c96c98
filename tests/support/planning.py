"""Plans as init_model_ makes them, to be looked at, and what a recipe does or does not decide for."""

from typing import Any

import pytest
from torch import nn

from convinit_ext.model import Options, Plan
from convinit_ext.model import make_plan as _make_plan
from convinit_ext.recipes import RECIPES

# The ready-made recipes for any model; the others are for some kinds of models alone.
GENERAL = {name: each for name, each in RECIPES.items() if name not in ("mamba", "deepnorm")}


def make_plan(model: Any, seed: Any = 0, recipe: Any = "torch", **options: Any) -> Plan:
    return _make_plan(model, seed, Options(recipe, **options))


def unlisted(model: nn.Module, recipe, **options) -> list[str]:
    """The parameters that the recipe decides for, of a model of which it does not know all."""
    with pytest.raises(ValueError, match="has no rule for") as raised:
        make_plan(model, recipe=recipe, **options)
    lines = str(raised.value).splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    return [name for name, _ in model.named_parameters() if name not in listed]


def fillings(model: nn.Module, recipe, **arguments) -> dict[str, object]:
    return {row.name: row.distribution for row in make_plan(model, recipe=recipe, **arguments).rows}


def stds(model: nn.Module, recipe) -> dict[str, float]:
    return {row.name: row.std for row in make_plan(model, recipe=recipe).rows}
