"""What every ready-made recipe knows beside torch.nn's layers, and what none of them may guess.

Each is known by the names and types of its modules; no other package is imported.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from torch.nn.modules.rnn import RNNBase, RNNCellBase

from convinit_ext.distributions import Distribution, Normal, Uniform
from convinit_ext.recipes._adapters import ADAPTERS
from convinit_ext.recipes._initialisers import ZEROS, Initialiser
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target, is_expert_stack

# The parameters that torch.nn's own types have: what a derived type adds is not meant by a rule for these.
IN_PROJ = re.compile(r"^(in|[qkv])_proj_weight$")
ATTENTION = re.compile(r"^((in|[qkv])_proj_weight|in_proj_bias|bias_[kv])$")
RECURRENT = re.compile(r"^((weight|bias)_(ih|hh)(_l\d+(_reverse)?)?|weight_hr_l\d+(_reverse)?)$")
RECURRENT_BIAS = re.compile(r"^bias_(ih|hh)(_l\d+(_reverse)?)?$")
WEIGHT_OR_BIAS = re.compile(r"^(weight|bias)$")
RECURRENT_TYPES = (RNNBase, RNNCellBase)

_ZERO_TABLES = re.compile("Krea2|LTX2VideoVaeDiffusion")
_EXPERT_BIAS = re.compile(r"^(gate_up|gate|up|down)_proj_bias$")
_SINUSOIDS = re.compile(r"sinus|sincos|sin_cos|fourier", re.IGNORECASE)
_TABLE = re.compile(
    r"pos(ition|enc)|fixed|table|timestep|create_weight|make_weight|get_embedding", re.IGNORECASE
)


def unknown(target: Target) -> Distribution:
    """Mark what a recipe does not know although a later rule fits: it is listed, as what no rule fits."""
    raise ValueError("this recipe does not know it")


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


def expert_rules(init: Initialiser) -> tuple[Rule, ...]:
    """Return the rules for matrices of many experts in one tensor, with the fans of one, and their biases."""
    return (
        Rule(init, parameter=re.compile("^[gudw]"), where=is_expert_stack),
        Rule(ZEROS, parameter=_EXPERT_BIAS, where=lambda target: target.tensor.ndim == 2),
    )
