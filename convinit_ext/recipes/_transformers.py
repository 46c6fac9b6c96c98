"""Recipes of one standard deviation for whole models: `trunc_normal` (vision), `gpt` and `llama` (language).

What a parameter is, is read from its module's type, and in vision models from its name too; no other package
is imported.
"""

from __future__ import annotations

import re

from torch import nn

from convinit_ext.distributions import Constant, Normal, TruncatedNormal
from convinit_ext.recipes._depth import RESIDUAL, ByDepth
from convinit_ext.recipes._initialisers import ZEROS
from convinit_ext.recipes._known import (
    IN_PROJ,
    KNOWN,
    NORM_LIKE,
    RECURRENT_TYPES,
    RESPONSE_NORM,
    TORCH_NORMS,
    called_norm,
    expert_rules,
    of_torch,
)
from convinit_ext.recipes._layers import LAYERS, TORCH, embedding_rule, of_conv1d
from convinit_ext.recipes._model_code import LAST, by_model_code
from convinit_ext.recipes._recipe import Recipe, own, ready_made
from convinit_ext.recipes._rules import Rule, scaled
from convinit_ext.recipes._target import Target, is_expert_stack

_STD = 0.02

# Layers of other packages are known by the names of their types, and these by their weight and bias alone.
_HAVE_TWO = (*LAYERS, nn.Bilinear)
_HAVE_OTHERS = (nn.MultiheadAttention, *RECURRENT_TYPES)
_LAYER_LIKE = re.compile(r"(Linear(\d\w*)?|Embedding|Conv[123]d|Router|Gate)$")
_EXPERTS = re.compile(r"Experts?$")

# ViT, Swin, ConvNeXt in timm and in transformers: learned tokens and tables beside the layers.
_POSITIONS = re.compile(r"^pos(ition)?_?emb\w*$")
_CLASS_TOKENS = re.compile(r"^((cls|class|dist|distillation|sep|eos|bos)_tokens?_?\d*|class_embedding)$")
_TOKENS = re.compile(r"^(\w*_?tokens?_?\d*|class_embedding|relative_position_bias_table|latent|probe)$")
_LAYER_SCALES = re.compile(r"^(gamma_?\d?|lambda_?\d|ls_?\d?|layer_?scale(_parameter)?_?\d?)$")


def trunc_normal(std: float = _STD, cut: float | None = None, corrected: bool = False) -> Recipe:
    """Return the recipe of ViT, Swin and ConvNeXt in timm and transformers: trunc_normal_(std=0.02).

    Biases are zeros. The bounds are -2 and 2 themselves (a hundred standard deviations), as theirs are,
    unless cut= says how many standard deviations.

    Args:
        std: of every matrix, convolution, embedding, position table and learned token.
        cut, corrected: as for init.trunc_normal_.

    Source: timm.layers.trunc_normal_; Dinov2PreTrainedModel, ViTPreTrainedModel of transformers; ConvNeXt
    (Liu et al. 2022, table 5). Layer scales are the module's init_values or the config's, in ConvNeXt 1e-6;
    ConvNeXt V2's response normalisation starts from zero.

    >>> 'trunc_normal_(0, 0.02, -2, 2)' in [rule.text for rule in trunc_normal()]
    True
    """
    normal = TruncatedNormal(0.0, std, cut=cut, corrected=corrected)
    return own(
        "trunc_normal",
        *KNOWN,
        *expert_rules(normal),
        Rule(normal, module=LAYERS, parameter="weight"),
        Rule(normal, parameter="weight", where=of_conv1d),
        Rule(normal, module=nn.MultiheadAttention, parameter=IN_PROJ),
        Rule(normal, module=nn.MultiheadAttention, parameter="bias_[kv]"),
        embedding_rule(normal),
        Rule(ZEROS, module=LAYERS, parameter="bias"),
        RESPONSE_NORM,
        Rule(ZEROS, parameter="mask_token", where=_unsaid),  # as in ViT and DINOv2 of transformers
        Rule(normal, parameter=_TOKENS),
        Rule(normal, parameter=_POSITIONS, where=_is_position_embedding),
        Rule(normal, parameter="weight", where=_is_position_table),
        Rule(
            _layer_scale,  # type: ignore[arg-type]  # known, where `where` holds
            parameter=_LAYER_SCALES,
            where=_is_known_layer_scale,
            label="constant_(layer scale)",
        ),
        *TORCH,
    )


def gpt(std: float = _STD, num_layers: int | None = None) -> Recipe:
    """Return GPT-2's recipe: normal of std 0.02, residual projections of 0.02 / sqrt(2 num_layers).

    Biases are zeros, norms ones. docs/recipes.md lists the names that residual projections are known by.

    Args:
        std: of every matrix and embedding; an embedding's padding row is zero.
        num_layers: residual blocks of the whole model. None reads it from the config of the nearest module
            that has one, otherwise it is the length of the outermost ModuleList around the parameter.

    Raises:
        ValueError: when used, where the number of layers can be read from neither.

    Source: Radford et al. 2019, section 2.3; GPT2PreTrainedModel._init_weights of transformers; nanoGPT.

    >>> from convinit_ext import plan_model
    >>> blocks = nn.ModuleList(nn.ModuleDict({"c_proj": nn.Linear(4, 4)}) for _ in "abc")
    >>> plan_model(blocks, recipe="gpt").report.rows[0].initialiser
    'normal_(0, 0.02) / sqrt(2 * 3)'
    """
    residual = Rule(Normal(0.0, std), name=RESIDUAL, where=is_matrix_of_layer)
    by_depth = ByDepth(num_layers=num_layers, recipe="gpt")
    return own("gpt", *KNOWN, *scaled([residual], by_depth), *_language(std))


def llama(std: float = _STD) -> Recipe:
    """Return Llama's recipe in transformers: normal of std 0.02 whatever the depth, biases 0, norms 1.

    What is no weight or bias of a linear, bilinear, convolutional or recurrent layer, nn.MultiheadAttention,
    an embedding, experts and their router or a norm, by its module's type, has no rule: a state space's A_log
    and dt_bias, a mask token, the slope of a PReLU. Class tokens and position embeddings are known by name.

    Args:
        std: of every matrix, expert and embedding (initializer_range); an embedding's padding row is zero.

    Source: LlamaConfig.initializer_range and PreTrainedModel._init_weights of transformers. Other code scales
    by depth (torchtitan): that is `gpt`.

    >>> 'normal_(0, 0.02)' in [rule.text for rule in llama()]
    True
    """
    return own("llama", *_language(std))


def _language(std: float) -> tuple[Rule, ...]:
    normal = Normal(0.0, std)
    return (
        *KNOWN,
        *expert_rules(normal),
        embedding_rule(normal),
        *TORCH_NORMS,
        *NORM_LIKE,
        Rule(normal, where=is_matrix_of_layer),
        Rule(ZEROS, parameter="*bias*", where=_is_of_layer),  # those of experts are matrices
        Rule(normal, parameter=_CLASS_TOKENS),
        Rule(normal, parameter=_POSITIONS, where=_is_position_embedding),
        *LAST,
    )


def _is_matrix(target: Target) -> bool:
    """Whether it is a matrix, a stack of them or a kernel; biases of experts have two dimensions too."""
    return target.tensor.ndim >= 2 and not target.parameter.endswith("bias")


def is_matrix_of_layer(target: Target) -> bool:
    return _is_matrix(target) and _is_of_layer(target)


def _is_of_layer(target: Target) -> bool:
    """Whether it is of a layer, by its module's type. torch.nn's embeddings have a rule of their own."""
    name, module = type(target.module).__name__, target.module
    if isinstance(module, _HAVE_OTHERS):
        return of_torch(target)
    if isinstance(module, _HAVE_TWO) or of_conv1d(target):
        return target.parameter in ("weight", "bias")
    if is_expert_stack(target) or (_EXPERTS.search(name) and target.tensor.ndim >= 2):
        return True
    return target.parameter in ("weight", "bias") and bool(_LAYER_LIKE.search(name))


def _is_position_table(target: Target) -> bool:
    return _is_matrix(target) and "Position" in type(target.module).__name__


def _unsaid(target: Target) -> bool:
    """Whether the model's own code says nothing of it."""
    return by_model_code(target) is None


def _is_position_embedding(target: Target) -> bool:
    """Whether a table is none of gains: no vector, and not a constant but zero in the model's own code."""
    return target.tensor.ndim >= 2 and (
        not isinstance(said := by_model_code(target), Constant) or said.value == 0
    )


def _layer_scale(target: Target) -> Constant | None:
    """Return what the modules around a layer scale say, otherwise ConvNeXt's where they are called so."""
    around = (target.module, *reversed(target.parents))
    for owner in around:
        for source in (owner, getattr(owner, "config", None)):
            for name in ("init_values", "layer_scale_init_value", "layerscale_value"):
                value = getattr(source, name, None)
                if isinstance(value, int | float):
                    return Constant(float(value))
    is_convnext = any("next" in type(each).__name__.lower() for each in around)
    return Constant(1e-6) if is_convnext else None


def _is_known_layer_scale(target: Target) -> bool:
    """Whether its module is no norm layer, whose gains are called gamma too, and its start is known.

    A module around it may say it, unless the model's own code does.
    """
    return not called_norm(target.module) and _layer_scale(target) is not None and _unsaid(target)


TRUNC_NORMAL, GPT, LLAMA = trunc_normal(), gpt(), llama()
ready_made(TRUNC_NORMAL, GPT, LLAMA)
