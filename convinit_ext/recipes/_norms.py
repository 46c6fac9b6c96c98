"""What norm layers start from: those of torch.nn, and others, which are known by the names of their types."""

from __future__ import annotations

import re
from functools import lru_cache

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from convinit_ext.recipes._initialisers import ONES, ZEROS, Target
from convinit_ext.recipes._rules import Rule

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_NORM = re.compile(r"(layer|rms|group|batch|instance)_?norm", re.IGNORECASE)
# Norm layers of transformers, diffusers and torchtitan that multiply by 1 + weight, which starts from zero.
_OFFSET_NORM = re.compile(
    r"(Gemma[23]?|RecurrentGemma|T5Gemma2?|VaultGemma|Qwen3Next|Qwen3_5(Moe)?|Qwen4ExpText|MiniMaxM3VL|Step3p7"
    r"|MuseGlimmerTextCentered|MuseSparkText(Centered|InputScaled))RMSNorm"
    r"|VideoPrismLayerNorm|Krea2RMSNorm|QwenImage21ZeroCenterRMSNorm|OffsetRMSNorm"
)
# Norm layers of diffusers whose gain is called gamma, with no beta, and starts from one. Elsewhere such gains
# start from one, from zero (gamma + 1) or from 1 / sqrt(dim) in types of one name: LayerNorm, RMSNorm.
_FROM_ONE = re.compile(r"\w*RMS_norm|Kandinsky6(VAE|SRLatentUpscaler)RMSNorm|StableAudio3RMSNorm")
_BIAS = re.compile(
    r"(\w+_)?bias(_[ih]h\w*)?"
)  # bias, in_proj_bias, and the bias_ih_l0_reverse of recurrent modules


@lru_cache(maxsize=1024)
def _norm_start(kind: type) -> float | None:
    """What the weight of a norm layer of somebody's own starts from; None of any other module."""
    if not _NORM.search(kind.__name__):
        return None
    return 0.0 if _OFFSET_NORM.fullmatch(kind.__name__) else 1.0


def _from_one(target: Target) -> bool:
    return target.tensor.ndim <= 1 and _norm_start(target.module.__class__) == 1.0


def _from_zero(target: Target) -> bool:
    return target.tensor.ndim <= 1 and _norm_start(target.module.__class__) == 0.0


def _is_norm(target: Target) -> bool:
    return _from_one(target) or _from_zero(target)


def called_norm(module: nn.Module) -> bool:
    """Whether it is a norm layer by its type, or its type is called like one."""
    return isinstance(module, NORMS) or "norm" in type(module).__name__.lower()


def _gamma_start(module: nn.Module) -> float | None:
    """What a gain called gamma starts from; None of any other module, and where nobody can know."""
    kind = module.__class__
    if not _holds(module, "gamma") or _holds(module, "weight"):
        return None
    if not (isinstance(module, NORMS) or _NORM.search(kind.__name__)):
        return None
    offset = getattr(module, "unit_offset", None)  # x-transformers' LayerNorm: gamma + unit_offset
    if offset is not None:
        return 1.0 - offset if isinstance(offset, int | float) else None
    return 1.0 if _holds(module, "beta") or _FROM_ONE.fullmatch(kind.__name__) else None


def _holds(module: nn.Module, name: str) -> bool:
    return module._parameters.get(name) is not None or module._buffers.get(name) is not None


def _gamma_from_one(target: Target) -> bool:
    return _gamma_start(target.module) == 1.0


def _gamma_from_zero(target: Target) -> bool:
    return _gamma_start(target.module) == 0.0


def _beside_gamma(target: Target) -> bool:
    return _gamma_start(target.module) in (0.0, 1.0)


# One that multiplies by 1 + weight, though it is derived from PyTorch's: VideoPrismLayerNorm.
OFFSET_LAYER_NORM = Rule(ZEROS, module=nn.LayerNorm, parameter="weight", where=_from_zero)

# Norm layers that are not of torch.nn are known by the names of their types: LlamaRMSNorm, T5LayerNorm.
NORM_LIKE: tuple[Rule, ...] = (
    Rule(ONES, parameter="weight", where=_from_one),
    Rule(ZEROS, parameter="weight", where=_from_zero),
    Rule(ZEROS, parameter="bias", where=_is_norm),
    Rule(ONES, parameter="gamma", where=_gamma_from_one),
    Rule(ZEROS, parameter="gamma", where=_gamma_from_zero),
    Rule(ZEROS, parameter=re.compile("^(beta|bias)$"), where=_beside_gamma),
)

# What a list of rules need not say: the weights of torch.nn's norm layers are ones, biases zeros.
DEFAULTS: tuple[Rule, ...] = (
    OFFSET_LAYER_NORM,
    Rule(ONES, module=NORMS, parameter="weight"),
    Rule(ZEROS, where=lambda target: target.tensor.ndim <= 1 and bool(_BIAS.fullmatch(target.parameter))),
)
