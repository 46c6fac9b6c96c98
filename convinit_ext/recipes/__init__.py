"""Which initialiser for which parameter: ready-made recipes, and what a recipe of your own is made of."""

from __future__ import annotations

from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._constructor import constructed, is_frozen_when_made, made_once
from convinit_ext.recipes._deepnorm import DEEPNORM, DeepNormScales, deepnorm, deepnorm_scales
from convinit_ext.recipes._derived import (
    MINUS_IDENTITY,
    CopyFrom,
    NormOf,
    Preset,
    Redrawn,
    Transformed,
    check_finite_stay,
    check_given,
)
from convinit_ext.recipes._file import SUFFIXES, distinct
from convinit_ext.recipes._foreign_code import generators_kept, other_generators, others_kept, seeded
from convinit_ext.recipes._functions import is_function, named, put_back, unchanged
from convinit_ext.recipes._initialisers import (
    ONES,
    ZEROS,
    Explained,
    Initialiser,
    Kaiming,
    RowZeroed,
    Stacked,
    Values,
    VarianceScaling,
    Xavier,
    fans_of,
    initialiser_text,
    is_distribution,
    is_values,
)
from convinit_ext.recipes._layers import HE, LECUN, TORCH, XAVIER
from convinit_ext.recipes._mamba import MAMBA, mamba
from convinit_ext.recipes._model_code import MODEL_CODE, by_model_code, computed_table, shown_copy
from convinit_ext.recipes._mup import MupRow, MupTable, mup, mup_groups, mup_table
from convinit_ext.recipes._orthogonal import DeltaOrthogonal, Orthogonal
from convinit_ext.recipes._recipe import RECIPES, Recipe, as_recipe, depth_scaled, is_ready_made
from convinit_ext.recipes._rules import Rule, original
from convinit_ext.recipes._target import FANS, Fan, Target, layout_of
from convinit_ext.recipes._transformers import GPT, LLAMA, TRUNC_NORMAL, gpt, llama, trunc_normal

__all__ = [
    "DEEPNORM",
    "GPT",
    "HE",
    "LECUN",
    "LLAMA",
    "MAMBA",
    "RECIPES",
    "TORCH",
    "TRUNC_NORMAL",
    "XAVIER",
    "CopyFrom",
    "DeepNormScales",
    "DeltaOrthogonal",
    "Initialiser",
    "Kaiming",
    "MupRow",
    "MupTable",
    "Orthogonal",
    "Preset",
    "Recipe",
    "RowZeroed",
    "Rule",
    "Target",
    "VarianceScaling",
    "Xavier",
    "as_recipe",
    "deepnorm",
    "deepnorm_scales",
    "depth_scaled",
    "gpt",
    "llama",
    "mamba",
    "mup",
    "mup_groups",
    "mup_table",
    "patterns",
    "trunc_normal",
]
