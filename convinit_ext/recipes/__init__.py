"""Which initialiser for which parameter: ready-made recipes, and what a recipe of your own is made of."""

from __future__ import annotations

from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._constructor import constructed as constructed
from convinit_ext.recipes._constructor import constructed_twice as constructed_twice
from convinit_ext.recipes._constructor import is_frozen_when_made as is_frozen_when_made
from convinit_ext.recipes._constructor import made_once as made_once
from convinit_ext.recipes._deepnorm import DEEPNORM, DeepNormScales, deepnorm, deepnorm_scales
from convinit_ext.recipes._depth_scaled import depth_scaled
from convinit_ext.recipes._derived import CopyFrom, Preset
from convinit_ext.recipes._derived import MinusIdentity as MinusIdentity
from convinit_ext.recipes._derived import NormOf as NormOf
from convinit_ext.recipes._derived import Redrawn as Redrawn
from convinit_ext.recipes._derived import Transformed as Transformed
from convinit_ext.recipes._derived import check_converts as check_converts
from convinit_ext.recipes._derived import check_given as check_given
from convinit_ext.recipes._derived import seeded as seeded
from convinit_ext.recipes._file import SUFFIXES as SUFFIXES
from convinit_ext.recipes._functions import call as call
from convinit_ext.recipes._functions import is_function as is_function
from convinit_ext.recipes._functions import named as named
from convinit_ext.recipes._functions import unchanged as unchanged
from convinit_ext.recipes._initialisers import ONES as ONES
from convinit_ext.recipes._initialisers import ZEROS as ZEROS
from convinit_ext.recipes._initialisers import Explained as Explained
from convinit_ext.recipes._initialisers import (
    Initialiser,
    Kaiming,
    RowZeroed,
    VarianceScaling,
    Xavier,
)
from convinit_ext.recipes._initialisers import Stacked as Stacked
from convinit_ext.recipes._initialisers import Values as Values
from convinit_ext.recipes._initialisers import fans_of as fans_of
from convinit_ext.recipes._initialisers import initialiser_text as initialiser_text
from convinit_ext.recipes._initialisers import is_distribution as is_distribution
from convinit_ext.recipes._initialisers import is_values as is_values
from convinit_ext.recipes._layers import HE, LECUN, TORCH, XAVIER
from convinit_ext.recipes._mamba import MAMBA, mamba
from convinit_ext.recipes._model_code import MODEL_CODE as MODEL_CODE
from convinit_ext.recipes._model_code import by_model_code as by_model_code
from convinit_ext.recipes._model_code import computed_table as computed_table
from convinit_ext.recipes._model_code import shown_copy as shown_copy
from convinit_ext.recipes._mup import MupRow, MupTable, mup, mup_groups, mup_table
from convinit_ext.recipes._orthogonal import DeltaOrthogonal, Orthogonal
from convinit_ext.recipes._recipe import RECIPES, Recipe, as_recipe
from convinit_ext.recipes._recipe import is_ready_made as is_ready_made
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._scaled import original as original
from convinit_ext.recipes._target import FANS as FANS
from convinit_ext.recipes._target import Fan as Fan
from convinit_ext.recipes._target import Target
from convinit_ext.recipes._target import has_inputs_first as has_inputs_first
from convinit_ext.recipes._target import layout_key as layout_key
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
