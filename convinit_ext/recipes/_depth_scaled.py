"""The recipe `depth_scaled`: any other one, with smaller weights where blocks write into the residual."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from convinit_ext.recipes._depth import By, ByDepth, scaled_by_depth
from convinit_ext.recipes._patterns import Pattern
from convinit_ext.recipes._recipe import Recipe, as_recipe
from convinit_ext.recipes._rules import Rule


def depth_scaled(
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    by: By = "model",
    num_layers: int | None = None,
    weights: Pattern | None = None,
) -> Recipe:
    """Return a recipe with smaller weights where each block writes into the residual stream.

    Args:
        recipe: what everything else gets, and these before they are divided.
        by: "model" divides by sqrt(2 num_layers), as GPT-2 and Megatron have it; "layer" by
            sqrt(2 (layer + 1)), layer the block's own number from 0, as torchtitan's depth_init has it.
        num_layers: blocks of the whole model, for by="model". None reads it from the config of the nearest
            module that has one, otherwise it is the length of the outermost ModuleList around the parameter.
        weights: pattern on the names of the weights to divide: a glob or a regular expression. None is the
            last projection of attention and of the feed-forward part, by the names in docs/recipes.md.

    Raises:
        ValueError: another `by`; num_layers below 1, or with by="layer"; a recipe that scales by depth
            itself. When used: no such weights, no number of layers, weights of values that cannot be scaled.
        TypeError: an argument of another type.

    Source: Radford et al. 2019, section 2.3; Megatron-LM's scaled_init_method_normal; torchtitan's Llama 3.

    >>> from torch import nn
    >>> from convinit_ext import plan_model
    >>> blocks = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}) for _ in "ab")
    >>> print(plan_model(blocks, recipe=depth_scaled("lecun", by="layer")).report.rows[6].initialiser)
    lecun_normal_ / sqrt(2 * 2)
    """
    inner, scale = as_recipe(recipe), ByDepth(by, num_layers, weights)
    rules = scaled_by_depth(inner.rules, scale, inner.name)
    return Recipe(rules, f"depth_scaled({inner.name})", inner.defaults)
