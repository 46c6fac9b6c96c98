"""Plans as init_model_ makes them, to be looked at."""

from __future__ import annotations

from typing import Any

from convinit_ext.model import Options, Plan
from convinit_ext.model import make_plan as _make_plan
from convinit_ext.recipes import RECIPES

# The ready-made recipes for any model; the others are for some kinds of models alone.
GENERAL = {name: each for name, each in RECIPES.items() if name not in ("mamba", "deepnorm")}


def make_plan(model: Any, seed: Any = 0, recipe: Any = "torch", **options: Any) -> Plan:
    return _make_plan(model, seed, Options(recipe, **options))
