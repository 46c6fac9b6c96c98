"""Recipes of one standard deviation for whole models: `trunc_normal` (vision), `gpt` and `llama` (language).

What a parameter is, is read from its module's type, and in vision models from its name too; no other package
is imported.
"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal
from convinit_ext.recipes._initialisers import ONES, ZEROS, RowZeroed, Target
from convinit_ext.recipes._layers import EMBEDDINGS, LAYERS, TORCH, of_conv1d
from convinit_ext.recipes._norms import NORM_LIKE, NORMS, OFFSET_LAYER_NORM, called_norm
from convinit_ext.recipes._recipe import Recipe
from convinit_ext.recipes._rules import Rule

_STD = 0.02
_LAYER_SCALE = 1e-6  # ConvNeXt's

# The last projection of each residual branch, as models name it: of attention, and of the feed-forward part.
_RESIDUAL = re.compile(
    r"(^|\.)("
    r"c_proj|out_proj|o_proj|wo|linear_proj"  # GPT-2, nanoGPT; OPT, torch.nn; Llama; torchtitan; Megatron
    r"|dense_4h_to_h|fc_out|fc2|down_proj|linear_fc2|linear2|w2"  # NeoX, Bloom; GPT-J; OPT; Llama; ...
    r"|(self_)?attention\.dense|(self_)?attn\.dense"  # NeoX, Bloom, Falcon; Phi
    r")(\.weight)?$"
)
_NUM_LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "num_decoder_layers")
_CONFIGS = ("config", "model_args", "args", "params")
_BLOCKS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)

# Layers of other packages are known by the names of their types, and these by their weight and bias alone.
_HAVE_MATRICES = (*LAYERS, nn.Bilinear, nn.MultiheadAttention, RNNBase, RNNCellBase)
_LAYER_LIKE = re.compile(r"(Linear(\d\w*)?|Embedding|Conv[123]d|Router|Gate)$")
_EXPERTS = re.compile(r"Experts?$")

# ViT, Swin, ConvNeXt in timm and in transformers: learned tokens and tables beside the layers.
_POSITIONS = re.compile(r"^pos(ition)?_?emb\w*$")
_TOKENS = re.compile(r"^(\w*_?tokens?|class_embedding|relative_position_bias_table|latent|probe)$")
_LAYER_SCALES = re.compile(r"gamma_?\d?|lambda\d?|layer_scale(_parameter|_\d)?|scale_factor")


def trunc_normal(std: float = _STD) -> Recipe:
    """ViT, Swin and ConvNeXt as timm and transformers begin them: trunc_normal_(std=0.02), biases zero.

    The bounds are -2 and 2 themselves (a hundred standard deviations of 0.02), as theirs are.

    Args:
        std: of every matrix, convolution, embedding, position table and learned token.

    Source: timm.layers.trunc_normal_; Dinov2PreTrainedModel, ViTPreTrainedModel of transformers; ConvNeXt
    (Liu et al. 2022, table 5). Layer scales are the module's init_values or the config's, otherwise 1e-6;
    ConvNeXt V2's response normalisation starts from zero.

    >>> trunc_normal().rules[0].text
    'trunc_normal_(0, 0.02, -2, 2)'
    """
    normal = TruncatedNormal(0.0, std, -2.0, 2.0)
    return Recipe(
        (
            Rule(normal, module=LAYERS, parameter="weight"),
            Rule(normal, parameter="weight", where=of_conv1d),
            Rule(normal, module=nn.MultiheadAttention, parameter="*_weight"),
            Rule(normal, module=nn.MultiheadAttention, parameter="bias_[kv]"),
            Rule(_embedding(normal), module=EMBEDDINGS, parameter="weight", label=Rule(normal).text),
            Rule(ZEROS, module=LAYERS, parameter="bias"),
            Rule(ZEROS, where=_normalises_responses),
            Rule(ZEROS, parameter="mask_token"),  # as in ViT and DINOv2 of transformers
            Rule(normal, parameter=_TOKENS),
            Rule(normal, parameter=_POSITIONS, where=_has_rows),
            Rule(normal, parameter="weight", where=_is_position_table),
            Rule(_layer_scale, parameter=_LAYER_SCALES, where=_is_of_no_norm, label="constant_(layer scale)"),
            *TORCH,
        ),
        name="trunc_normal",
    )


def gpt(std: float = _STD, num_layers: int | None = None) -> Recipe:
    """GPT-2: normal of std 0.02, residual projections of 0.02 / sqrt(2 num_layers), biases 0, norms 1.

    Args:
        std: of every matrix and embedding; an embedding's padding row is zero.
        num_layers: residual blocks of the whole model. None reads it from the model: from the config
            (n_layer, num_hidden_layers, num_layers, n_layers) of the nearest module that has one, otherwise
            it is the length of the outermost list of blocks around the parameter.

    Raises:
        ValueError: when used, where the number of layers can be read from neither.

    Residual projections are known by name: c_proj (GPT-2, nanoGPT), attention.dense and dense_4h_to_h
    (GPT-NeoX, Bloom, Falcon), out_proj, fc_out and fc2 (GPT-J, OPT), o_proj and down_proj (Llama), wo and w2
    (torchtitan), linear_proj and linear_fc2 (Megatron), out_proj and linear2 (torch.nn).

    Source: Radford et al. 2019, section 2.3; GPT2PreTrainedModel._init_weights of transformers; nanoGPT.

    >>> gpt(num_layers=8).rules[0].init.__name__
    'residual'
    """

    def residual(target: Target) -> Distribution:
        layers = num_layers if num_layers is not None else _num_layers(target)
        return Normal(0.0, std / math.sqrt(2 * layers))

    if num_layers is not None and num_layers < 1:
        raise ValueError(f"num_layers must be 1 or more, but found {num_layers}")
    label = f"normal_(0, {std:.6g} / sqrt(2 num_layers))"
    return Recipe(
        (Rule(residual, name=_RESIDUAL, where=_is_matrix_of_layer, label=label), *_language(std)),
        name="gpt",
        defaults=False,
    )


def llama(std: float = _STD) -> Recipe:
    """Llama as transformers begins it: normal of std 0.02 whatever the depth, biases 0, norms 1.

    What is no weight or bias of a linear, bilinear, convolutional or recurrent layer, nn.MultiheadAttention,
    an embedding, experts and their router or a norm, by its module's type, has no rule: a state space's A_log
    and dt_bias, a learned token, the slope of a PReLU.

    Args:
        std: of every matrix, expert and embedding (initializer_range); an embedding's padding row is zero.

    Source: LlamaConfig.initializer_range and PreTrainedModel._init_weights of transformers. Other code scales
    by depth (torchtitan): that is `gpt`.

    >>> [rule.text for rule in llama().rules[:1]]
    ['normal_(0, 0.02)']
    """
    return Recipe(_language(std), name="llama", defaults=False)


def _language(std: float) -> tuple[Rule, ...]:
    normal = Normal(0.0, std)
    return (
        Rule(_embedding(normal), module=EMBEDDINGS, parameter="weight", label=Rule(normal).text),
        OFFSET_LAYER_NORM,
        Rule(ONES, module=NORMS, parameter="weight"),
        Rule(ZEROS, module=NORMS, parameter="bias"),
        *NORM_LIKE,
        Rule(normal, where=_is_matrix_of_layer),
        Rule(ZEROS, parameter="*bias*", where=_is_of_layer),  # those of experts are matrices
    )


def _embedding(normal: Distribution) -> Any:
    def embedding(target: Target) -> Distribution | RowZeroed:
        padding = target.module.padding_idx
        return normal if padding is None else RowZeroed(normal, padding % target.tensor.shape[0])

    return embedding


def _is_matrix(target: Target) -> bool:
    """Matrices, stacks of them and kernels; not the biases of experts, which have two dimensions too."""
    return target.tensor.ndim >= 2 and not target.parameter.endswith("bias")


def _is_matrix_of_layer(target: Target) -> bool:
    return _is_matrix(target) and _is_of_layer(target)


def _is_of_layer(target: Target) -> bool:
    """By the type of its module. torch.nn's embeddings have a rule of their own."""
    name = type(target.module).__name__
    if isinstance(target.module, _HAVE_MATRICES) or of_conv1d(target) or _EXPERTS.search(name):
        return True
    return target.parameter in ("weight", "bias") and bool(_LAYER_LIKE.search(name))


def _normalises_responses(target: Target) -> bool:
    name = type(target.module).__name__
    return name.endswith("GRN") or name == "GlobalResponseNorm"


def _has_rows(target: Target) -> bool:
    """As a table of positions has, and SeamlessM4Tv2's pos_emb_alpha, a gain, has not."""
    return target.tensor.ndim >= 2


def _is_position_table(target: Target) -> bool:
    return _is_matrix(target) and "Position" in type(target.module).__name__


def _is_of_no_norm(target: Target) -> bool:
    """Gains of norm layers are called gamma too."""
    return not called_norm(target.module)


def _layer_scale(target: Target) -> Distribution:
    for owner in (target.module, *reversed(target.parents)):
        for source in (owner, getattr(owner, "config", None)):
            for name in ("init_values", "layer_scale_init_value", "layerscale_value"):
                value = getattr(source, name, None)
                if isinstance(value, int | float):
                    return Constant(float(value))
    return Constant(_LAYER_SCALE)


def _num_layers(target: Target) -> int:
    """What the nearest config says: a stage of a pipeline holds fewer blocks than the model has."""
    around = (*target.parents, target.module)
    for module in reversed(around):
        for name in _CONFIGS:
            found = _from_config(module.__dict__.get(name))
            if found is not None:
                return found
    for module in around:
        if isinstance(module, nn.ModuleList):
            return len(module)
    raise ValueError(
        "the number of layers is neither in a config of the model nor the length of a ModuleList; "
        "say it: recipe=convinit_ext.recipes.gpt(num_layers=12)"
    )


def _from_config(config: Any) -> int | None:
    for name in _NUM_LAYERS:
        found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


TRUNC_NORMAL, GPT, LLAMA = trunc_normal(), gpt(), llama()
