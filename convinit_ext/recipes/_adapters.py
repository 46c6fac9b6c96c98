"""Low-rank adapters (LoRA): of peft, of loralib and torchtune, and of their copies in other packages.

One half is drawn and the other is zero, so that an adapter changes nothing at first, whatever the recipe.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from convinit_ext.distributions import Distribution, Normal
from convinit_ext.recipes._derived import CopyFrom, NormOf
from convinit_ext.recipes._initialisers import ZEROS, Kaiming
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target

_OTHERS = {"lora_A": "lora_B", "lora_a": "lora_b", "lora_embedding_A": "lora_embedding_B"}
_OTHERS |= {other: half for half, other in _OTHERS.items()}
_LORA = "lora_"
_SAVED = ".modules_to_save."
_MAGNITUDE = ".lora_magnitude_vector."
_FIRST = Kaiming("uniform", a=math.sqrt(5), fan="torch")  # as nn.Linear has it


def _half(target: Target) -> str:
    """Return which half of an adapter a parameter is of; nothing of no adapter."""
    if _LORA not in target.name:
        return ""
    half = next((each for each in reversed(target.name.split(".")) if each in _OTHERS), "")
    around = (*target.parents, target.module)
    return half if half and any(_is_adapter(each, half) for each in around) else ""


def _is_adapter(module: nn.Module, half: str) -> bool:
    """Whether it is peft's, or holds adapters by their names, or both halves by these."""
    if isinstance(module, nn.ModuleDict | nn.ParameterDict) or type(module).__module__.startswith("peft."):
        return True
    names = {half, _OTHERS[half]}
    pair = [module._modules.get(each) for each in names]
    return names <= module._parameters.keys() or all(isinstance(each, nn.Linear) for each in pair)


def _is_of_embedding(target: Target, half: str) -> bool:
    return "embedding" in half or isinstance(target.module, nn.Embedding)  # loralib's


def _is_zero(target: Target) -> bool:
    half = _half(target)
    first = half.endswith(("A", "a"))
    return bool(half) and first is _is_of_embedding(target, half)


def _is_drawn(target: Target) -> bool:
    return bool(_half(target)) and target.tensor.ndim > 1


def _is_normal(target: Target) -> bool:
    return _is_drawn(target) and _is_of_embedding(target, _half(target))


def _is_gaussian(target: Target) -> bool:
    """Whether peft's configuration of the adapter has init_lora_weights="gaussian"."""
    half = _half(target)
    adapter = target.name.partition(f".{half}.")[2].partition(".")[0] if half else ""
    configs: list[Any] = [getattr(each, "peft_config", None) for each in target.parents] if adapter else []
    found = [each[adapter] for each in configs if isinstance(each, dict) and adapter in each]
    return any(getattr(each, "init_lora_weights", True) == "gaussian" for each in found)


def _by_rank(target: Target) -> Distribution:
    return Normal(0.0, 1 / target.tensor.shape[0])


def _is_magnitude(target: Target) -> bool:
    kind = type(target.module)
    return (
        _MAGNITUDE in target.name and kind.__name__.startswith("Dora") and kind.__module__.startswith("peft.")
    )


def _magnitude(target: Target) -> NormOf:
    """Return what DoRA's magnitudes start from: the norms of the weight's rows, or of its columns."""
    layer = target.name.partition(_MAGNITUDE)[0]
    return NormOf(f"{layer}.weight", dim=int(target.module.fan_in_fan_out))


def _is_saved(target: Target) -> bool:
    """Whether it is of the copy of a layer that peft trains and saves whole, in place of the layer itself."""
    return _SAVED in target.name and any(
        type(each).__name__ == "ModulesToSaveWrapper" for each in target.parents
    )


def _original(target: Target) -> CopyFrom:
    layer, _, inside = target.name.partition(_SAVED)
    return CopyFrom(f"{layer}.{inside.partition('.')[2]}")


ADAPTERS: tuple[Rule, ...] = (
    Rule(ZEROS, where=_is_zero),
    Rule(Normal(), where=_is_normal),
    Rule(_by_rank, where=_is_gaussian, label="normal_(0, 1 / rank)"),
    Rule(_FIRST, where=_is_drawn),
    Rule(_original, where=_is_saved, label="copy of the layer"),
    Rule(_magnitude, parameter="weight", where=_is_magnitude, label="norm_of_(the weight)"),
)
# By the id of a rule's `where`: what is in every name that it fits. Models without adapters need not ask it.
WORDS = {
    **dict.fromkeys(map(id, (_is_zero, _is_normal, _is_gaussian, _is_drawn)), _LORA),
    id(_is_saved): _SAVED,
    id(_is_magnitude): _MAGNITUDE,
}
