"""Recipes by the type of layer, as data: `torch` (what reset_parameters does), `he`, `xavier` and `lecun`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils import parametrize

from convinit_ext import distributions
from convinit_ext.distributions import Constant, Distribution, Normal, Uniform
from convinit_ext.recipes._initialisers import (
    ONES,
    ZEROS,
    Kaiming,
    RowZeroed,
    Target,
    VarianceScaling,
    Xavier,
    is_conv1d,
)
from convinit_ext.recipes._norms import NORM_LIKE, NORMS, OFFSET_LAYER_NORM
from convinit_ext.recipes._recipe import Recipe
from convinit_ext.recipes._rules import Rule

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
LAYERS = (_ConvNd, nn.Linear)


def _symmetric(fan: int) -> Uniform:
    """Uniform to 1 / sqrt(fan) on either side; zero where there is nothing to scale by."""
    bound = 1 / math.sqrt(fan) if fan > 0 else 0.0
    return Uniform(-bound, bound)


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Without reading a parametrized weight: that would compute it, and move spectral_norm's buffers."""
    plain = module._parameters.get("weight")  # asking a module for what it lacks takes long
    if plain is not None:
        return plain.shape
    held: Any = module
    if not parametrize.is_parametrized(module, "weight"):
        return tuple(held.weight.shape)
    shapes = [
        tuple(p.shape)
        for name, p in held.parametrizations.weight.named_parameters()
        if name.startswith("original")
    ]
    return max(shapes, key=math.prod)


@lru_cache(maxsize=1024)
def _by_fan_in(weight_shape: tuple[int, ...]) -> Distribution:
    return _symmetric(distributions.fans(weight_shape)[0])


def _bias_by_weight(target: Target) -> Distribution:
    return _by_fan_in(_weight_shape(target.module))


def _bilinear(target: Target) -> Distribution:
    return _symmetric(_weight_shape(target.module)[1])


def _recurrent(target: Target) -> Distribution:
    return _symmetric(target.module.hidden_size)


def _embedding(target: Target) -> Distribution | RowZeroed:
    padding = target.module.padding_idx
    return Normal() if padding is None else RowZeroed(Normal(), padding % target.tensor.shape[0])


def _prelu(target: Target) -> Distribution:
    return Constant(float(target.module.init))


def _in_transformer(target: Target) -> bool:
    """nn.Transformer draws every matrix inside it anew, whatever the module that owns it did."""
    if target.tensor.ndim < 2:
        return False
    for parent in target.parents:  # spelled out: this is asked of every matrix of every model
        if isinstance(parent, nn.Transformer):
            return True
    return isinstance(target.module, nn.Transformer)


def of_conv1d(target: Target) -> bool:
    return is_conv1d(target.module.__class__)


def _projects_attention(target: Target) -> bool:
    """The out_proj that nn.MultiheadAttention makes and resets, and no other layer of a subclass."""
    if not isinstance(target.module, NonDynamicallyQuantizableLinear) or not target.parents:
        return False
    parent = target.parents[-1]
    return isinstance(parent, nn.MultiheadAttention) and parent._modules.get("out_proj") is target.module


def _is_no_attention(target: Target) -> bool:
    return not _projects_attention(target)


TORCH = Recipe(
    (
        Rule(Xavier("uniform", fan="torch"), where=_in_transformer),
        Rule(Kaiming("uniform", a=math.sqrt(5), fan="torch"), module=LAYERS, parameter="weight"),
        Rule(ZEROS, module=nn.Linear, parameter="bias", where=_projects_attention),
        Rule(_bias_by_weight, module=LAYERS, parameter="bias", label="uniform_(+-1/sqrt(fan_in))"),
        OFFSET_LAYER_NORM,
        Rule(ONES, module=NORMS, parameter="weight"),
        Rule(ZEROS, module=NORMS, parameter="bias"),
        Rule(_embedding, module=EMBEDDINGS, parameter="weight", label="normal_(0, 1)"),
        Rule(Xavier("uniform", fan="torch"), module=nn.MultiheadAttention, parameter="*_weight"),
        Rule(ZEROS, module=nn.MultiheadAttention, parameter="in_proj_bias"),
        Rule(Xavier("normal", fan="torch"), module=nn.MultiheadAttention, parameter="bias_[kv]"),
        Rule(_recurrent, module=(RNNBase, RNNCellBase), label="uniform_(+-1/sqrt(hidden_size))"),
        Rule(_bilinear, module=nn.Bilinear, label="uniform_(+-1/sqrt(in1_features))"),
        Rule(_prelu, module=nn.PReLU, parameter="weight", label="constant_(init)"),
        Rule(Normal(0.0, 0.02), parameter="weight", where=of_conv1d),  # as its constructor
        Rule(ZEROS, parameter="bias", where=of_conv1d),
        *NORM_LIKE,
    ),
    name="torch",
    defaults=False,
)

# torchvision's ResNet for the convolutions. A linear layer is scaled by fan_in: by fan_out, a head of one
# output would start with a std of sqrt(2). Embeddings, attention and recurrent modules are as in `torch`.
HE = Recipe(
    (
        Rule(Kaiming("normal", mode="fan_out", nonlinearity="relu"), module=_ConvNd, parameter="weight"),
        Rule(
            Kaiming("normal", nonlinearity="relu"),
            module=nn.Linear,
            parameter="weight",
            where=_is_no_attention,
        ),
        Rule(Kaiming("normal", nonlinearity="relu"), parameter="weight", where=of_conv1d),
        Rule(ZEROS, module=LAYERS, parameter="bias"),
        *TORCH,
    ),
    name="he",
    defaults=False,
)

# Glorot's uniform for convolutions, linear and bilinear layers; in_proj of attention has it in `torch`.
XAVIER = Recipe(
    (
        Rule(
            Xavier("uniform"),
            module=(*LAYERS, nn.Bilinear),
            parameter="weight",
            where=_is_no_attention,
        ),
        Rule(Xavier("uniform"), parameter="weight", where=of_conv1d),
        Rule(ZEROS, module=(*LAYERS, nn.Bilinear), parameter="bias"),
        *TORCH,
    ),
    name="xavier",
    defaults=False,
)

# A variance of 1 / fan_in, as lecun_normal_ (truncated at two standard deviations): for SELU and for linear
# outputs.
LECUN = Recipe(
    (
        Rule(VarianceScaling(), module=LAYERS, parameter="weight", where=_is_no_attention),
        Rule(VarianceScaling(), parameter="weight", where=of_conv1d),
        Rule(ZEROS, module=LAYERS, parameter="bias"),
        *TORCH,
    ),
    name="lecun",
    defaults=False,
)
