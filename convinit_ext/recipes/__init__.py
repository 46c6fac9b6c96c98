"""The ready-made recipes by name, and what recipes of one's own are made of."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._derived import CopyFrom, Preset
from convinit_ext.recipes._derived import Derived as Derived
from convinit_ext.recipes._derived import MinusIdentity as MinusIdentity
from convinit_ext.recipes._derived import NormOf as NormOf
from convinit_ext.recipes._derived import Orthogonal as Orthogonal
from convinit_ext.recipes._derived import Redrawn as Redrawn
from convinit_ext.recipes._derived import check_converts as check_converts
from convinit_ext.recipes._derived import check_given as check_given
from convinit_ext.recipes._derived import check_sharding as check_sharding
from convinit_ext.recipes._derived import norm_dtype as norm_dtype
from convinit_ext.recipes._derived import root_of as root_of
from convinit_ext.recipes._file import SUFFIXES as SUFFIXES
from convinit_ext.recipes._initialisers import FANS as FANS
from convinit_ext.recipes._initialisers import ZEROS as ZEROS
from convinit_ext.recipes._initialisers import Fan as Fan
from convinit_ext.recipes._initialisers import (
    Initialiser,
    Kaiming,
    RowZeroed,
    Target,
    VarianceScaling,
    Xavier,
)
from convinit_ext.recipes._initialisers import Values as Values
from convinit_ext.recipes._initialisers import fan_layout as fan_layout
from convinit_ext.recipes._initialisers import initialiser_text as initialiser_text
from convinit_ext.recipes._initialisers import is_distribution as is_distribution
from convinit_ext.recipes._layers import HE, LECUN, TORCH, XAVIER
from convinit_ext.recipes._recipe import RECIPES, Recipe
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._rules import is_values as is_values
from convinit_ext.recipes._transformers import GPT, LLAMA, TRUNC_NORMAL, gpt, llama, trunc_normal

__all__ = [
    "GPT",
    "HE",
    "LECUN",
    "LLAMA",
    "RECIPES",
    "TORCH",
    "TRUNC_NORMAL",
    "XAVIER",
    "CopyFrom",
    "Initialiser",
    "Kaiming",
    "Preset",
    "Recipe",
    "RowZeroed",
    "Rule",
    "Target",
    "VarianceScaling",
    "Xavier",
    "as_recipe",
    "gpt",
    "llama",
    "patterns",
    "trunc_normal",
]

RECIPES.update({each.name: each for each in (TORCH, HE, XAVIER, LECUN, TRUNC_NORMAL, GPT, LLAMA)})


def as_recipe(recipe: str | PathLike[str] | Recipe | Sequence[Rule]) -> Recipe:
    """A recipe by its name, from a .toml or .json file, itself, or a list of rules made one.

    Raises:
        ValueError: no recipe of that name, or a file that is no recipe.
        OSError: a file that cannot be read.
        TypeError: none of these.

    >>> as_recipe("he") is HE
    True
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | PathLike):
        text = fspath(recipe)
        if text in RECIPES:
            return RECIPES[text]
        if not text.endswith(SUFFIXES):
            raise ValueError(
                f"there is no recipe {text!r}; there are {', '.join(RECIPES)}, and files in "
                f"{' or '.join(SUFFIXES)}"
            )
        return Recipe.load(text)
    if isinstance(recipe, list | tuple):
        return Recipe(tuple(recipe))
    raise TypeError(f"recipe must be a name, a Recipe or a list of rules, not {type(recipe).__name__}")
