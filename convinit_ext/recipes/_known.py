"""What every ready-made recipe knows beside torch.nn's layers, norms first, and what none of them may guess.

Each is known by the names and types of its modules; no other package is imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from convinit_ext.distributions import Distribution, Normal, Uniform
from convinit_ext.recipes._adapters import ADAPTERS
from convinit_ext.recipes._initialisers import ONES, ZEROS, Initialiser
from convinit_ext.recipes._rules import Rule, unknown
from convinit_ext.recipes._target import Target, is_expert_stack

# The parameters that torch.nn's own types have: what a derived type adds is not meant by a rule for these.
IN_PROJ = re.compile(r"^(in|[qkv])_proj_weight$")
ATTENTION = re.compile(r"^((in|[qkv])_proj_weight|in_proj_bias|bias_[kv])$")
RECURRENT = re.compile(r"^((weight|bias)_(ih|hh)(_l\d+(_reverse)?)?|weight_hr_l\d+(_reverse)?)$")
RECURRENT_BIAS = re.compile(r"^bias_(ih|hh)(_l\d+(_reverse)?)?$")
WEIGHT_OR_BIAS = re.compile(r"^(weight|bias)$")
RECURRENT_TYPES = (RNNBase, RNNCellBase)

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

_ZERO_TABLES = re.compile("Krea2|LTX2VideoVaeDiffusion")
_EXPERT_BIAS = re.compile(r"^(gate_up|gate|up|down)_proj_bias$")
_SINUSOIDS = re.compile(r"sinus|sincos|sin_cos|fourier", re.IGNORECASE)
_TABLE = re.compile(
    r"pos(ition|enc)|fixed|table|timestep|create_weight|make_weight|get_embedding", re.IGNORECASE
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
    """Return what a norm layer's weight starts from, by its type and that type's name; None where unknown."""
    kind = target.module.__class__
    is_torchs = issubclass(kind, NORMS)
    if is_torchs and kind.__module__.startswith("torch.nn."):
        return 1.0
    start = _start_by_name(kind) if is_torchs or target.tensor.ndim <= 1 else None
    if start is None and not is_torchs:
        return None
    return next(iter(_start_by_offset(target.module)), 0.0 if start == 0.0 else 1.0)


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
    Rule(ONES, module=NORMS, parameter="weight", where=_starts(_weight_start, 1.0)),
    Rule(ZEROS, module=NORMS, parameter="weight", where=_starts(_weight_start, 0.0)),
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


def of_torch(target: Target) -> bool:
    """Whether a parameter of nn.MultiheadAttention or of a recurrent type is one that torch.nn's own has."""
    names = RECURRENT if isinstance(target.module, RECURRENT_TYPES) else ATTENTION
    return names.search(target.parameter) is not None


def is_rescaled(target: Target) -> bool:
    """Whether it is of a readout of mup, whose set_base_shapes has scaled what the layer drew."""
    facts = target.module.__dict__
    return "readout_zero_init" in facts and bool(facts.get("_has_rescaled_params"))


def _rescaled(target: Target) -> Distribution:
    """Return what nn.Linear draws, with mup's factor: sqrt(width / base width)."""
    module = target.module
    if module.readout_zero_init:
        return ZEROS
    bound = math.sqrt(module.width_mult() / module.in_features)
    return Uniform(-bound, bound)


def _modulates(target: Target) -> bool:
    """Whether it is a table of shifts and scales in diffusers, drawn with a std of 1 / sqrt(dim)."""
    kind = type(target.module)
    is_zero = _ZERO_TABLES.match(kind.__name__)  # all but two models' are drawn
    return kind.__module__.partition(".")[0] == "diffusers" and target.tensor.ndim >= 2 and not is_zero


def by_width(target: Target) -> Distribution:
    """Return normal values with a variance of one over the last dimension."""
    return Normal(0.0, target.tensor.shape[-1] ** -0.5)


@lru_cache(maxsize=1024)
def _computes(kind: type) -> tuple[bool, bool]:
    """Whether a type derived from nn.Embedding, or called like one, is of sinusoids; or of another table."""
    own = [each for each in kind.__mro__ if not each.__module__.startswith("torch.") and each is not object]
    names = [name for each in own for name in (each.__name__, *vars(each))]
    if not any("Embed" in each.__name__ for each in kind.__mro__) or not own:
        return False, False
    is_learned = any("learned" in each.__name__.lower() for each in own)  # and frozen where it is a LoRA base
    return any(map(_SINUSOIDS.search, names)), any(map(_TABLE.search, names)) and not is_learned


def _is_computed(target: Target) -> bool:
    """Whether it is a table that its module computes: sinusoids, or frozen positions of a derived type."""
    of_sinusoids, of_table = _computes(target.module.__class__)
    return of_sinusoids or (of_table and not target.tensor.requires_grad)


# Of the layer that makes a state space's time steps: its bias starts from these and not from zero.
TIME_STEP = re.compile(r"(^|\.)dt_proj\.(weight|bias)$")
UNKNOWN_BIAS = Rule(unknown, parameter="bias", name=TIME_STEP)

# A bias that a module registers by itself, as BERT's head does; experts' have two dimensions.
OWN_BIAS = Rule(ZEROS, parameter="bias", where=lambda target: target.tensor.ndim <= 1, allow_unused=True)

# Before everything else in every ready-made recipe.
KNOWN: tuple[Rule, ...] = (
    *ADAPTERS,
    Rule(_rescaled, parameter=WEIGHT_OR_BIAS, where=is_rescaled, label="uniform_(mup's readout)"),
    Rule(
        by_width,
        parameter=re.compile("^(audio_)?scale_shift_table$"),
        where=_modulates,
        label="normal_(0, 1 / sqrt(dim))",
    ),
    UNKNOWN_BIAS,
    Rule(unknown, parameter="weight", where=_is_computed),
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


def expert_rules(init: Initialiser) -> tuple[Rule, ...]:
    """Return the rules for matrices of many experts in one tensor, with the fans of one, and their biases."""
    return (
        Rule(init, parameter=re.compile("^[gudw]"), where=is_expert_stack),
        Rule(ZEROS, parameter=_EXPERT_BIAS, where=lambda target: target.tensor.ndim == 2),
    )
