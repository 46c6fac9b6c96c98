"""What norm layers start from: those of torch.nn, and others, which are known by the names of their types."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from convinit_ext.recipes._initialisers import ONES, ZEROS
from convinit_ext.recipes._known import OWN_BIAS, RECURRENT_BIAS, RECURRENT_TYPES, UNKNOWN_BIAS, unknown
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target

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
# Attributes that say what is added to the gain: a number, or whether one is.
_OFFSET = re.compile(
    r"(^|_)(offset|residual_weight|zero_?cent(er|re)(ed)?|plus_?one|one_plus|add_?one|unit_weight)(_|$)"
)


@lru_cache(maxsize=1024)
def _start_by_name(kind: type) -> float | None:
    if not _NORM.search(kind.__name__):
        return None
    return 0.0 if _OFFSET_NORM.fullmatch(kind.__name__) else 1.0


@lru_cache(maxsize=1024)
def _offset_names(attributes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in attributes if _OFFSET.search(name))


def _start_by_offset(module: nn.Module) -> tuple[float | None, ...]:
    """Return what a gain starts from by each attribute that says what is added to it; None where unclear."""
    values = (module.__dict__[name] for name in _offset_names(tuple(module.__dict__)))
    return tuple(1.0 - value if isinstance(value, int | float) else None for value in values)


def _weight_start(target: Target) -> float | None:
    """Return what the weight of a norm layer that is known by its type's name starts from; None otherwise."""
    start = _start_by_name(target.module.__class__) if target.tensor.ndim <= 1 else None
    return next(iter(_start_by_offset(target.module)), start) if start is not None else None


def _torch_start(target: Target) -> float | None:
    """Return what the weight of a norm layer of torch.nn starts from, or of a type derived from one."""
    kind = target.module.__class__
    if kind.__module__.startswith("torch.nn."):
        return 1.0
    return next(iter(_start_by_offset(target.module)), 0.0 if _start_by_name(kind) == 0.0 else 1.0)


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
    for start in _start_by_offset(module):  # x-transformers' LayerNorm: gamma + unit_offset
        return start
    return 1.0 if _holds(module, "beta") or _FROM_ONE.fullmatch(name) else None


def _normalises_responses(target: Target) -> bool:
    name = type(target.module).__name__
    return name.endswith("GRN") or name == "GlobalResponseNorm"


def _holds(module: nn.Module, name: str) -> bool:
    held = module._parameters, module._buffers  # torch.jit's have no get()
    return any(name in each and each[name] is not None for each in held)


def _starts(start: Callable[[Target], float | None], *values: float) -> Callable[[Target], bool]:
    return lambda target: start(target) in values


# The norm layers of torch.nn. A derived one may multiply by 1 + weight, as VideoPrismLayerNorm does.
TORCH_NORMS: tuple[Rule, ...] = (
    Rule(ONES, module=NORMS, parameter="weight", where=_starts(_torch_start, 1.0)),
    Rule(ZEROS, module=NORMS, parameter="weight", where=_starts(_torch_start, 0.0)),
    Rule(unknown, module=NORMS, parameter="weight"),
    Rule(ZEROS, module=NORMS, parameter="bias"),
)

# ConvNeXt V2's (Woo et al. 2023): what it adds to its input starts from zero.
RESPONSE_NORM = Rule(ZEROS, where=_normalises_responses)

# Norm layers that are not of torch.nn are known by the names of their types: LlamaRMSNorm, T5LayerNorm.
NORM_LIKE: tuple[Rule, ...] = (
    Rule(ONES, parameter="weight", where=_starts(_weight_start, 1.0)),
    Rule(ZEROS, parameter="weight", where=_starts(_weight_start, 0.0)),
    Rule(ZEROS, parameter="bias", where=_starts(_weight_start, 0.0, 1.0)),
    Rule(ONES, parameter="gamma", where=_starts(_gamma_start, 1.0)),
    Rule(ZEROS, parameter="gamma", where=_starts(_gamma_start, 0.0)),
    Rule(ZEROS, parameter=re.compile("^(beta|bias)$"), where=_starts(_gamma_start, 0.0, 1.0)),
    RESPONSE_NORM,
)

# Where no rule of a list fits: the weights of torch.nn's norm layers are ones, biases zeros. Longer names are
# biases in torch.nn's own types alone: SigLIP's logit_bias starts from -10.
DEFAULTS: tuple[Rule, ...] = (
    *TORCH_NORMS,
    UNKNOWN_BIAS,
    OWN_BIAS,
    Rule(ZEROS, module=nn.MultiheadAttention, parameter="in_proj_bias"),
    Rule(ZEROS, module=RECURRENT_TYPES, parameter=RECURRENT_BIAS),
)
