"""What norm layers start from: those of torch.nn, and others, which are known by the names of their types."""

from __future__ import annotations

import re
from collections.abc import Callable
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
_BIAS = re.compile(r"(\w+_)?bias(_[ih]h\w*)?")  # as in_proj_bias, and bias_ih_l0_reverse of an LSTM


@lru_cache(maxsize=1024)
def _start_by_name(kind: type) -> float | None:
    if not _NORM.search(kind.__name__):
        return None
    return 0.0 if _OFFSET_NORM.fullmatch(kind.__name__) else 1.0


def _weight_start(target: Target) -> float | None:
    """Return what the weight of a norm layer that is known by its type's name starts from; None otherwise."""
    return _start_by_name(target.module.__class__) if target.tensor.ndim <= 1 else None


def called_norm(module: nn.Module) -> bool:
    """Whether a module is a norm layer of torch.nn, or its type is called like one."""
    return isinstance(module, NORMS) or "norm" in type(module).__name__.lower()


def _gamma_start(target: Target) -> float | None:
    """Return what a norm layer's gain called gamma starts from; None of other modules and where unknown."""
    module, name = target.module, type(target.module).__name__
    if not _holds(module, "gamma") or _holds(module, "weight"):
        return None
    if not (isinstance(module, NORMS) or _NORM.search(name)):
        return None
    offset = getattr(module, "unit_offset", None)  # x-transformers' LayerNorm: gamma + unit_offset
    if offset is not None:
        return 1.0 - offset if isinstance(offset, int | float) else None
    return 1.0 if _holds(module, "beta") or _FROM_ONE.fullmatch(name) else None


def _holds(module: nn.Module, name: str) -> bool:
    return module._parameters.get(name) is not None or module._buffers.get(name) is not None


def _starts(start: Callable[[Target], float | None], *values: float) -> Callable[[Target], bool]:
    return lambda target: start(target) in values


# The norm layers of torch.nn. The first rule is for one that multiplies by 1 + weight, though it is derived
# from LayerNorm: VideoPrismLayerNorm.
TORCH_NORMS: tuple[Rule, ...] = (
    Rule(ZEROS, module=nn.LayerNorm, parameter="weight", where=_starts(_weight_start, 0.0)),
    Rule(ONES, module=NORMS, parameter="weight"),
    Rule(ZEROS, module=NORMS, parameter="bias"),
)

# Norm layers that are not of torch.nn are known by the names of their types: LlamaRMSNorm, T5LayerNorm.
NORM_LIKE: tuple[Rule, ...] = (
    Rule(ONES, parameter="weight", where=_starts(_weight_start, 1.0)),
    Rule(ZEROS, parameter="weight", where=_starts(_weight_start, 0.0)),
    Rule(ZEROS, parameter="bias", where=_starts(_weight_start, 0.0, 1.0)),
    Rule(ONES, parameter="gamma", where=_starts(_gamma_start, 1.0)),
    Rule(ZEROS, parameter="gamma", where=_starts(_gamma_start, 0.0)),
    Rule(ZEROS, parameter=re.compile("^(beta|bias)$"), where=_starts(_gamma_start, 0.0, 1.0)),
)

# Where no rule of a list fits: the weights of torch.nn's norm layers are ones, biases zeros.
DEFAULTS: tuple[Rule, ...] = (
    *TORCH_NORMS,
    Rule(ZEROS, where=lambda target: target.tensor.ndim <= 1 and bool(_BIAS.fullmatch(target.parameter))),
)
