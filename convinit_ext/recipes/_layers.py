"""Recipes by the type of layer, as data: `torch` (what reset_parameters does), `he`, `xavier` and `lecun`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from convinit_ext import distributions
from convinit_ext.distributions import Constant, Distribution, Normal, Uniform
from convinit_ext.recipes._initialisers import ZEROS, Initialiser, Kaiming, VarianceScaling, Xavier
from convinit_ext.recipes._known import (
    IN_PROJ,
    KNOWN,
    NORM_LIKE,
    RECURRENT,
    RECURRENT_TYPES,
    TORCH_NORMS,
    WEIGHT_OR_BIAS,
    expert_rules,
)
from convinit_ext.recipes._model_code import LAST
from convinit_ext.recipes._recipe import Recipe, own, ready_made
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target, is_conv1d
from convinit_ext.sharding import logical_shape

LAYERS = (_ConvNd, nn.Linear)
_STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)


@lru_cache(maxsize=1024)
def _symmetric(fan: int) -> Uniform:
    """Return the uniform distribution within 1 / sqrt(fan) of zero; zero where the fan is."""
    bound = 1 / math.sqrt(fan) if fan > 0 else 0.0
    return Uniform(-bound, bound)


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Return the shape of a weight without reading one that is parametrized.

    Reading would compute it, and move spectral_norm's buffers.
    """
    plain = module._parameters.get("weight")  # asking a module for what it lacks takes long
    if plain is not None:
        return logical_shape(plain)
    held: Any = module
    if not parametrize.is_parametrized(module, "weight"):
        return tuple(logical_shape(held.weight))
    parts: Any = held.parametrizations.weight
    leaves = ["original"] if parts.is_tensor else [f"original{number}" for number in range(parts.ntensors)]
    shapes = [tuple(logical_shape(getattr(parts, leaf))) for leaf in leaves]  # not always parameters
    return max(shapes, key=math.prod)


def _bias_by_weight(target: Target) -> Distribution:
    return _symmetric(distributions.fans(_weight_shape(target.module))[0])


def _bilinear(target: Target) -> Distribution:
    return _symmetric(_weight_shape(target.module)[1])


def _recurrent(target: Target) -> Distribution:
    return _symmetric(target.module.hidden_size)


def _prelu(target: Target) -> Distribution:
    return Constant(float(target.module.init))


def embedding_rule(values: Distribution) -> Rule:
    """Return the rule for the weights of embeddings; the row of padding_idx is zero whatever the rule."""
    return Rule(values, module=(nn.Embedding, nn.EmbeddingBag), parameter="weight")


def _in_transformer(target: Target) -> bool:
    """Whether it is a matrix of the encoder or decoder that nn.Transformer draws anew, whatever they did.

    What a derived type adds comes later, and keeps what its own module did.
    """
    if target.tensor.ndim < 2:
        return False
    parents = target.parents
    for index, parent in enumerate(parents):  # spelled out: this is asked of every matrix of every model
        if isinstance(parent, nn.Transformer):
            inner = parents[index + 1] if index + 1 < len(parents) else target.module
            is_own = type(parent) is nn.Transformer or isinstance(inner, _STACKS)
            if is_own and (
                inner is parent._modules.get("encoder") or inner is parent._modules.get("decoder")
            ):
                return True
    return False


def of_conv1d(target: Target) -> bool:
    """Whether the parameter's module is the Conv1D of transformers."""
    return is_conv1d(target.module.__class__)


def _projects_attention(target: Target) -> bool:
    """Whether it is of the out_proj that nn.MultiheadAttention itself makes and resets."""
    if not isinstance(target.module, NonDynamicallyQuantizableLinear) or not target.parents:
        return False
    parent = target.parents[-1]
    return isinstance(parent, nn.MultiheadAttention) and parent._modules.get("out_proj") is target.module


TORCH = own(
    "torch",
    *KNOWN,
    *expert_rules(Kaiming("uniform", a=math.sqrt(5), fan="true")),
    Rule(Xavier("uniform", fan="torch"), where=_in_transformer),
    Rule(Kaiming("uniform", a=math.sqrt(5), fan="torch"), module=LAYERS, parameter="weight"),
    Rule(ZEROS, module=nn.Linear, parameter="bias", where=_projects_attention),
    Rule(_bias_by_weight, module=LAYERS, parameter="bias", label="uniform_(+-1/sqrt(fan_in))"),
    *TORCH_NORMS,
    embedding_rule(Normal()),
    Rule(Xavier("uniform", fan="torch"), module=nn.MultiheadAttention, parameter=IN_PROJ),
    Rule(ZEROS, module=nn.MultiheadAttention, parameter="in_proj_bias"),
    Rule(Xavier("normal", fan="torch"), module=nn.MultiheadAttention, parameter="bias_[kv]"),
    Rule(
        _recurrent,
        module=RECURRENT_TYPES,
        parameter=RECURRENT,
        label="uniform_(+-1/sqrt(hidden_size))",
    ),
    Rule(
        _bilinear,
        module=nn.Bilinear,
        parameter=WEIGHT_OR_BIAS,
        label="uniform_(+-1/sqrt(in1_features))",
    ),
    Rule(_prelu, module=nn.PReLU, parameter="weight", label="constant_(init)"),
    Rule(Normal(0.0, 0.02), parameter="weight", where=of_conv1d),  # as its constructor
    Rule(ZEROS, parameter="bias", where=of_conv1d),
    *NORM_LIKE,
    *LAST,
)


def _scaled(
    name: str, init: Initialiser, *first: Rule, layers: tuple[type[nn.Module], ...] = LAYERS
) -> Recipe:
    """Return a recipe for the weights of these layers and of Conv1D, with zero biases; the rest as `torch`.

    Embeddings, attention (its out_proj too) and recurrent modules are left to `torch`, but for the fans of
    attention's packed projections.
    """
    return own(
        name,
        *KNOWN,
        *expert_rules(init),
        *first,
        Rule(init, module=layers, parameter="weight", where=lambda each: not _projects_attention(each)),
        Rule(init, parameter="weight", where=of_conv1d),
        Rule(Xavier("uniform"), module=nn.MultiheadAttention, parameter=IN_PROJ),
        Rule(ZEROS, module=layers, parameter="bias"),
        *TORCH,
    )


# torchvision's ResNet for the convolutions. A linear layer is scaled by fan_in: by fan_out, a head of one
# output would start with a std of sqrt(2).
HE = _scaled(
    "he",
    Kaiming("normal", nonlinearity="relu"),
    Rule(Kaiming("normal", mode="fan_out", nonlinearity="relu"), module=_ConvNd, parameter="weight"),
)
# Glorot's uniform for convolutions, linear and bilinear layers; in_proj of attention has it in `torch`.
XAVIER = _scaled("xavier", Xavier("uniform"), layers=(*LAYERS, nn.Bilinear))
# A variance of 1 / fan_in, as lecun_normal_ (truncated at two standard deviations): for SELU and for linear
# outputs.
LECUN = _scaled("lecun", VarianceScaling())
ready_made(TORCH, HE, XAVIER, LECUN)
