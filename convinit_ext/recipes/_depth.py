"""How deep a model is, and at which layer a parameter stands: by names, configs and lists of blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from convinit_ext.keys import canonical_name
from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._patterns import Pattern
from convinit_ext.recipes._rules import Division, Rule, Scaled, scaled
from convinit_ext.recipes._target import Target

By: TypeAlias = Literal["model", "layer"]
_BY = ("model", "layer")

# The last projection of each residual branch, as models name it: of attention, and of the feed-forward part.
RESIDUAL = re.compile(
    r"(^|\.)("
    r"c_proj|out_proj|o_proj|wo|linear_proj"  # GPT-2, nanoGPT; OPT, torch.nn; Llama; torchtitan; Megatron
    r"|dense_4h_to_h|fc_out|fc2|down_proj"  # NeoX, Bloom, Falcon; GPT-J; OPT; Llama
    r"|linear_fc2|linear2|w2"  # Megatron; torch.nn; torchtitan
    r"|(self_)?attention\.dense|(self_)?attn\.dense"  # NeoX, Bloom, Falcon; Phi
    r")(\.weight)?$"
)
_OF_ONE_BLOCK = re.compile(r"expert|head|branch|adapter|ffn|mlp", re.IGNORECASE)  # lists inside a block
_NUM_LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "num_decoder_layers")
_LAYER_IDS = {"layer_id": 0, "layer_idx": 0, "layer_index": 0, "layer_number": 1}  # Megatron counts from 1
_CONFIGS = ("config", "model_args", "args", "params")


def num_layers(target: Target, recipe: str) -> int:
    """Return what the nearest config says: a stage of a pipeline holds fewer blocks than the model has.

    ValueError, which names the recipe, says that there is neither a config nor a list of blocks.
    """
    return config_value(target, _NUM_LAYERS) or len(_place(target, recipe)[1])


def config_value(target: Target, names: Sequence[str]) -> int:
    """Return the positive number of one of these names in the nearest config around a parameter; or 0."""
    for module in (target.module, *reversed(target.parents)):
        for config in map(module.__dict__.get, _CONFIGS):
            for name in names:
                found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
                if isinstance(found, int) and found > 0:
                    return found
    return 0


def layer_of(target: Target, recipe: str) -> int:
    """Return the number of a parameter's block from 0: what it says of itself, otherwise its place.

    ValueError, which names the recipe, says that it is in no list of blocks.
    """
    at, blocks = _place(target, recipe)
    if at is None:
        raise ValueError("it is in none of the model's blocks, which have numbers")
    for module in blocks[at][1].modules():  # a stage of a pipeline does not begin with the first
        for name, first in _LAYER_IDS.items():
            found = module.__dict__.get(name)
            if type(found) is int and found >= first:
                return found - first
    key = blocks[at][0]
    return int(key) if key else at


def _place(target: Target, recipe: str) -> tuple[int | None, list[tuple[str, nn.Module]]]:
    """Return the place of a parameter's block in the outermost list, if any, and all blocks."""
    around = (*target.parents, target.module)
    at = next((index for index, module in enumerate(around) if is_numbered(module)), None)
    if at is None:
        raise ValueError(
            "the number of layers is neither in a config of the model nor the length of a ModuleList; "
            f"pass it: recipe=convinit_ext.recipes.{recipe}(num_layers=12)"
        )
    outermost, inside = around[at], around[at + 1 :]
    if any(map(_is_list_of_blocks, inside)):  # otherwise it is not walked through
        blocks = [("", each) for each in blocks_of(outermost)]
    elif isinstance(outermost, nn.ModuleDict):
        blocks = list(outermost.items())
    else:
        blocks = [("", each) for each in outermost.children()]
    places = (i for i, (_, each) in enumerate(blocks) if any(each is one for one in inside))
    return next(places, None), blocks


def is_numbered(module: nn.Module) -> bool:
    """Whether it is a ModuleList, or a ModuleDict of numbers as torchtitan has."""
    is_dict = isinstance(module, nn.ModuleDict) and bool(module._modules)
    return isinstance(module, nn.ModuleList) or (is_dict and all(map(str.isdecimal, module._modules)))


def _is_list_of_blocks(module: nn.Module) -> bool:
    """Whether it holds blocks: a type of module that has layers itself and repeats, or a single one."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    kinds = [type(each) for each in module if each._modules]
    return len(kinds) == len(module) > 0 and (len(kinds) == 1 or len(set(kinds)) < len(kinds))


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the blocks in a list of them, or of stages that hold such lists."""
    found: list[nn.Module] = []
    for each in module.children():
        found += [block for inner in _lists_in(each) for block in blocks_of(inner)] or [each]
    return found


def _lists_in(stage: nn.Module, name: str = "") -> list[nn.Module]:
    """Return the lists of blocks in a stage; none of a block itself, which projects beside its lists."""
    if _is_list_of_blocks(stage):
        return [] if _OF_ONE_BLOCK.search(name) else [stage]
    found: list[nn.Module] = []
    for child, module in stage.named_children():
        if RESIDUAL.search(f"{name}.{child}") and not module._modules:
            return []
        inner = _lists_in(module, child)
        if not inner and any(RESIDUAL.search(each) for each, _ in module.named_parameters()):
            return []
        found += inner
    return found


@dataclass(frozen=True, slots=True)
class ByDepth:
    """Divide what writes into the residual stream by sqrt(branches * depth)."""

    by: By = "model"  # whose number of layers is the depth; or "layer", whose own number from 1 it is
    num_layers: int | None = None  # of the whole model, for "model"; None reads it from the model
    weights: Pattern | None = None  # on the names of what is scaled; None is what models' names say
    branches: int = 2  # residual ones in each block
    recipe: str = "depth_scaled"  # whose errors these are

    def __post_init__(self) -> None:
        if self.by not in _BY:
            raise ValueError(f"by must be one of {list(_BY)}, not {self.by!r}")
        if self.by == "layer" and self.num_layers is not None:
            raise ValueError("num_layers is not looked at where each layer counts its own depth, by='layer'")
        check_num_layers(self.num_layers)
        if self.weights is not None:
            patterns.check(self.weights, "weights")

    def __call__(self, target: Target) -> Division | None:
        if not (self._fits(target.name) and target.tensor.ndim >= 2):
            self._check_fits_any(target)
            return None
        if self.by == "layer":
            depth = layer_of(target, self.recipe) + 1
        else:
            depth = num_layers(target, self.recipe) if self.num_layers is None else self.num_layers
        return Division(math.sqrt(self.branches * depth), f"/ sqrt({self.branches} * {depth})")

    def _fits(self, name: str) -> bool:
        if self.weights is not None:
            return patterns.matches(self.weights, name)
        return RESIDUAL.search(name) is not None

    def _check_fits_any(self, target: Target) -> None:
        """Raise ValueError for a model without weights to scale. Most have one within the first dozen."""
        root = (*target.parents, target.module)[0]
        if any(self._fits(canonical_name(f"{path}.weight")) for path, _ in root.named_modules() if path):
            return
        if not any(self._fits(canonical_name(name)) for name, _ in root.named_parameters()):
            what = "that write into a residual stream by their names" if self.weights is None else "that fit"
            raise ValueError(
                f"{self.recipe} scales weights {what}, and the model has none; say which: "
                "weights='blocks.*.last.weight'"
            )


def scaled_by_depth(rules: Iterable[Rule], scale: ByDepth, recipe: str) -> tuple[Rule, ...]:
    """Return rules for the same parameters that divide what these say; ValueError if one does so already."""
    rules = tuple(rules)
    if any(map(_follows_depth, rules)):
        raise ValueError(f"recipe {recipe!r} scales by depth itself")
    return scaled(rules, scale)


def _follows_depth(rule: Rule) -> bool:
    while isinstance(rule.init, Scaled):
        if isinstance(rule.init.scale, ByDepth):
            return True
        rule = rule.init.rule
    return getattr(rule.init, "by_depth", False)  # as deepnorm's does


def check_num_layers(given: int | None, what: str = "num_layers") -> None:
    """Raise ValueError or TypeError for a number of layers that is none."""
    if given is None:
        return
    if type(given) is not int:
        raise TypeError(f"{what} must be an int, not {given!r}")
    if given < 1:
        raise ValueError(f"{what} must be 1 or more, but found {given}")
    if given >= 2**31:
        raise ValueError(f"{what} must be less than 2**31, but found {given}")
