"""The ready-made recipes by name, and what recipes of one's own are made of."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from convinit_ext.derived import CopyFrom, Preset
from convinit_ext.initialisers import Initialiser, Kaiming, RowZeroed, Target, VarianceScaling, Xavier
from convinit_ext.layer_recipes import HE, LECUN, TORCH, XAVIER
from convinit_ext.recipe import RECIPES, Recipe
from convinit_ext.recipe_file import SUFFIXES
from convinit_ext.rules import Rule
from convinit_ext.transformer_recipes import GPT, LLAMA, TRUNC_NORMAL, gpt, llama, trunc_normal

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
