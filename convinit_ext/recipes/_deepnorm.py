"""The recipe `deepnorm`: transformers of up to a thousand layers, with the residual scaled in their code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from torch import nn

from convinit_ext.distributions import Distribution
from convinit_ext.recipes._depth import blocks_of, check_num_layers, config_value, is_numbered, num_layers
from convinit_ext.recipes._initialisers import Explained, Stacked, Xavier
from convinit_ext.recipes._known import KNOWN, by_width
from convinit_ext.recipes._layers import XAVIER, of_conv1d
from convinit_ext.recipes._recipe import Recipe, own, ready_made
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target
from convinit_ext.recipes._transformers import is_matrix_of_layer

_END = r"(\.weight)?$"
# What is multiplied by beta: of attention the values and the output, and the feed-forward part.
_BRANCHES = re.compile(
    r"(^|\.)(v|v_proj|v_proj_weight|v_lin|wv|to_v|value(_proj)?"
    r"|o|o_proj|out_proj|out_lin|wo|c_proj|linear_proj|dense"
    r"|fc1|fc2|fc_in|fc_out|linear1|linear2|linear_fc1|linear_fc2|lin1|lin2|c_fc|wi|wi_0|wi_1|w1|w2|w3"
    r"|(gate|up|gate_up|down)_proj|dense_h_to_4h|dense_4h_to_h)" + _END
)
_PLAIN = re.compile(
    r"(^|\.)(q|k|q_proj|k_proj|[qk]_proj_weight|[qk]_lin|wq|wk|to_q|to_k|q_attn|query|key|query_proj|key_proj)"
    + _END
)
_PACKED = re.compile(
    r"(^|\.)(in_proj_weight|c_attn|w?qkv|qkv_proj|to_qkv|kv|kv_proj|to_kv)" + _END, re.IGNORECASE
)
_INTERLEAVED = re.compile(r"(^|\.)(query_key_value|linear_qkv|kv_b_proj|wkv_b)" + _END)
_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")


class DeepNormScales(NamedTuple):
    """The constants of DeepNet, table 1: x = LayerNorm(alpha * x + branch(x)), beta the gain of branches.

    Those of the decoder are None where there is one stack of layers alone.
    """

    alpha: float
    beta: float
    decoder_alpha: float | None = None
    decoder_beta: float | None = None


def deepnorm_scales(num_layers: int, num_decoder_layers: int | None = None) -> DeepNormScales:
    """Return alpha, for your model's residual connections, and beta, which recipe `deepnorm` applies.

    Args:
        num_layers: of an encoder or a decoder alone; of the encoder where there are both.
        num_decoder_layers: of the decoder where there are both.

    Raises:
        ValueError, TypeError: a number of layers that is not 1 or more.

    Source: Wang et al. 2022, DeepNet, table 1.

    >>> deepnorm_scales(8)
    DeepNormScales(alpha=2.0, beta=0.3535533905932738, decoder_alpha=None, decoder_beta=None)
    """
    if num_layers is None:
        raise TypeError("num_layers must be an int, not None")
    check_num_layers(num_layers)
    check_num_layers(num_decoder_layers, "num_decoder_layers")
    n, m = num_layers, num_decoder_layers
    if m is None:
        return DeepNormScales((2 * n) ** 0.25, (8 * n) ** -0.25)
    both = (n**4 * m) ** 0.0625
    return DeepNormScales(0.81 * both, 0.87 / both, (3 * m) ** 0.25, (12 * m) ** -0.25)


def deepnorm(num_layers: int | None = None, num_decoder_layers: int | None = None) -> Recipe:
    """Return the recipe of DeepNet: xavier_normal_ with gain beta in feed-forward parts, values and outputs.

    Queries and keys have gain 1, also where they are packed with the values; every packed projection has fans
    of its own. Embeddings are normal of std 1 / sqrt(dim), everything else is as `xavier` has it. The model
    itself multiplies its residual by alpha: deepnorm_scales() says it.

    Args:
        num_layers: as for deepnorm_scales(); None reads it from the model: as `gpt` does, or, of an encoder
            beside a decoder, from the lists of their blocks.
        num_decoder_layers: likewise.

    Raises:
        ValueError, TypeError: a number of layers that is not 1 or more. When used: a model without blocks, an
            encoder beside a decoder with one number, packed projections whose parts cannot be told.

    Source: Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers, figure 2 and table 1; for
    embeddings torchscale's DeepNet.

    >>> from torch import nn
    >>> from convinit_ext import plan_model
    >>> stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 8, enable_nested_tensor=False)
    >>> [row.initialiser for row in plan_model(stack, recipe="deepnorm").report.rows[:3:2]]
    ['xavier_normal_ with gain 0.353553 of v', 'xavier_normal_ with gain 0.353553']
    """
    check_num_layers(num_layers)
    check_num_layers(num_decoder_layers, "num_decoder_layers")
    if num_decoder_layers is not None and num_layers is None:
        raise ValueError("num_decoder_layers goes with num_layers, those of the encoder")
    gain = Gain(num_layers, num_decoder_layers)
    return own(
        "deepnorm",
        Rule(_PackedGain(gain), where=_named(_PACKED), label="xavier_normal_"),
        Rule(_refuse, where=_named(_INTERLEAVED), label="xavier_normal_"),
        Rule(Xavier("normal"), where=_named(_PLAIN)),
        *KNOWN,
        Rule(by_width, module=nn.Embedding, parameter="weight", label="normal_(0, 1 / sqrt(dim))"),
        *XAVIER,
        needed=Rule(gain, where=_named(_BRANCHES), label="xavier_normal_"),
    )


def _named(names: re.Pattern[str]) -> Callable[[Target], bool]:
    """Return whether a parameter is a matrix of a layer inside a block, with such a name."""

    def fits(target: Target) -> bool:
        if not names.search(target.name):
            return False
        inside = any(is_numbered(each) or isinstance(each, _LAYERS) for each in target.parents)
        return inside and is_matrix_of_layer(target)

    return fits


@dataclass(frozen=True, slots=True)
class Gain:
    """xavier_normal_ with gain beta."""

    by_depth: ClassVar[bool] = True
    num_layers: int | None
    num_decoder_layers: int | None

    def __call__(self, target: Target) -> Explained:
        beta = self.beta(target)
        blocks = 2 if target.name.endswith("gate_up_proj.weight") else 1
        return Explained(Xavier("normal", gain=beta, blocks=blocks)(target), f"with gain {beta:.6g}")

    def beta(self, target: Target) -> float:
        """Return the gain of the stack that a parameter is in."""
        number, of_decoder = self.num_layers, self.num_decoder_layers
        part, encoder, decoder = _stack_of(target)
        if of_decoder is not None and not part:
            raise ValueError("it is in no module called encoder or decoder: pass num_layers= alone")
        if number is not None and of_decoder is None and encoder and decoder:
            raise ValueError(
                "it is of a decoder beside an encoder, or of such an encoder: pass deepnorm(num_layers, "
                "num_decoder_layers), those of both"
            )
        if number is None and encoder and decoder:
            number, of_decoder = encoder, decoder
        scales = deepnorm_scales(num_layers(target, "deepnorm") if number is None else number, of_decoder)
        return scales.decoder_beta if part == "decoder" and scales.decoder_beta is not None else scales.beta


def _stack_of(target: Target) -> tuple[str, int, int]:
    """Return "encoder", "decoder" or nothing, whichever a parameter is in, and the lengths of both there."""
    for outer, inner in pairwise((*target.parents, target.module)):
        for part in ("encoder", "decoder"):
            if outer._modules.get(part) is inner:
                return part, _length(outer._modules.get("encoder")), _length(outer._modules.get("decoder"))
    return "", 0, 0


def _length(stack: nn.Module | None) -> int:
    lists = (each for each in stack.modules() if is_numbered(each)) if stack is not None else iter(())
    return next((len(blocks_of(each)) for each in lists), 0)


@dataclass(frozen=True, slots=True)
class _PackedGain:
    """xavier_normal_ with gain beta of the values, and gain 1 of queries and keys, in one tensor."""

    gain: Gain

    def __call__(self, target: Target) -> Explained:
        dim = 1 if of_conv1d(target) else 0
        beta = self.gain.beta(target)
        num_in, num_out = target.tensor.shape[1 - dim], target.tensor.shape[dim]
        sizes = list(_sizes(target, num_in, num_out))
        gains = [1.0] * (len(sizes) - 1) + [beta]
        parts = tuple(
            (size, Xavier("normal", gain=gain).of_fans(num_in, size))
            for size, gain in zip(sizes, gains, strict=True)
        )
        return Explained(Stacked(parts, dim, (num_in, sizes[-1])), f"with gain {beta:.6g} of v")


def _sizes(target: Target, num_in: int, num_out: int) -> Iterator[int]:
    """Yield how many outputs are queries (if any), keys and values."""
    heads, few = (config_value(target, names) for names in (_HEADS, _KEY_HEADS))
    if heads and few and few != heads and num_out % (heads + 2 * few) == 0:
        unit = num_out // (heads + 2 * few)
        yield from (heads * unit, few * unit, few * unit)
    elif num_out == 3 * num_in or target.parameter == "in_proj_weight":
        yield from [num_out // 3] * 3
    elif num_out == 2 * num_in:
        yield from [num_in] * 2
    else:
        raise ValueError(
            f"neither a config nor the shape says which of its {num_out} outputs are queries, keys and "
            "values; give it its own rule: Rule(Xavier('normal', blocks=...), name=...)"
        )


def _refuse(target: Target) -> Distribution:
    raise ValueError("its queries, keys and values lie in turns, head by head; give it its own rule")


DEEPNORM = deepnorm()
ready_made(DEEPNORM)
