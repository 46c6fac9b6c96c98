"""Small models of every type that a library has: their configs are shrunk by the names of their numbers."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
# What torchvision's Python asks of its compiled part, which is there for another build of torch.
_OPS = torch.library.Library("torchvision", "FRAGMENT")
if not hasattr(torch.ops.torchvision, "nms"):
    for _name in ("nms", "qnms"):
        _OPS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_TIMM_LOOKS = 6
_LITTLE = re.compile("test|atto|femto|pico|nano|tiny|mini|micro|small|xxs|_xs|_s|lite|18|26|50|b0|050")
MOST = 60_000_000  # parameters of a model that is built in memory

# Whole names of numbers, and what they are at most; the first that fits counts.
_SIZES = tuple(
    (re.compile(f"(^|_)({name})$"), size)
    for name, size in (
        (
            r"(max|num|n)?_?(source|target|mel|time|audio|image)?_?positions?|max_\w*positions?\w*|n_ctx|context_length",
            64,
        ),
        (r"\w*vocab_size|vocab_sizes?|num_embeddings|codebook_size|num_tokens|n_vocab", 120),
        (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_of_experts", 4),
        (r"(num|n)_shared_experts", 1),
        (r"(num|n)_\w*(layers?|blocks?|stages)|\w*_(layers|blocks|depth)|n_layers?|depth|layers", 2),
        (
            r"(num|n)_\w*(kv|key_value)_heads|num_key_value_groups|\w*num_key_value_heads|num_kv_heads|n_kv_heads",
            2,
        ),
        (r"\w*(heads?|num_attention_heads)", 4),
        (r"(qk_|v_|kv_|q_)?(\w*head_dim|dim_head|attention_head_dim|d_kv)", 16),
        (
            r"\w*(hidden_size|hidden_dim|d_model|embed_dim|embedding_dim|embedding_size|n_embd|dim|width|d_inner)",
            64,
        ),
        (r"\w*(intermediate_size|ffn_dim|d_ff|inner_dim|ff_dim|mlp_dim|ffn_hidden_size|n_inner)", 96),
        (r"(kv_|q_)lora_rank", 16),
    )
)
_CHANNELS = ("block_out_channels", "hidden_sizes", "embed_dims", "hidden_dims")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def families() -> dict[str, Callable[[], dict[str, Callable[[], nn.Module]]]]:
    """Return for each library its types by name, and how to build one."""
    return {
        "transformers": transformers_models,
        "timm": timm_models,
        "diffusers": diffusers_models,
        "torchtitan": torchtitan_models,
    }


def _smaller(name: str, value: int) -> int:
    for pattern, size in _SIZES:
        if pattern.search(name):
            return min(value, size)
    return value


def shrunk(table: dict[str, Any]) -> dict[str, Any]:
    """Return a config's table with smaller numbers, and lists of layers as long as there are layers."""
    layers = next((table[name] for name in _LAYERS if isinstance(table.get(name), int)), None)
    found: dict[str, Any] = {}
    for name, value in table.items():
        if not isinstance(name, str):  # labels by number
            found[name] = value
        elif isinstance(value, dict):
            found[name] = shrunk(value)
        elif isinstance(value, bool) or value is None:
            found[name] = value
        elif isinstance(value, int):
            found[name] = min(value, 3) if name.endswith("_token_id") else _smaller(name, value)
        elif isinstance(value, list) and layers and layers > 2 and len(value) == layers:
            found[name] = _two_kinds(value)
        elif name.endswith(_CHANNELS) and isinstance(value, list) and value and isinstance(value[0], int):
            found[name] = [each * 32 // value[0] // 32 * 32 for each in value]
        else:
            found[name] = value
    return found


def _two_kinds(values: list[Any]) -> list[Any]:
    """Return the first of a list, and the first that is another."""
    return [values[0], next((each for each in values if each != values[0]), values[0])]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from talking: their warnings are not what the sweep is about."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    logging.disable(logging.NOTSET)


def first_small(builds: list[Callable[[], nn.Module]]) -> Callable[[], nn.Module] | None:
    """Return the first of several ways to build a model that works and is small; tried on the meta device."""
    for build in builds:
        try:
            with quiet(), torch.device("meta"):
                model = build()
        except Exception as error:
            reason = error
            continue
        if sum(each.numel() for each in model.parameters()) <= MOST:
            return build
        reason = ValueError("too large")
    raise reason


# transformers

_KINDS = (
    "PRETRAINING",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_CLASSIFICATION",
    "MASKED_LM",
    "IMAGE_TEXT_TO_TEXT",
    "OBJECT_DETECTION",
)


def transformers_models() -> dict[str, Callable[[], nn.Module]]:
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    mappings = [getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES") for kind in _KINDS]
    mappings.append(modeling_auto.MODEL_MAPPING_NAMES)
    names = dict.fromkeys(name for mapping in mappings for name in mapping)

    def model_of(name: str) -> Callable[[], nn.Module]:
        kind = next(mapping[name] for mapping in mappings if name in mapping)
        kind = kind if isinstance(kind, str) else kind[0]
        return lambda: _transformer(CONFIG_MAPPING_NAMES[name], kind)

    return {name: model_of(name) for name in names if name in CONFIG_MAPPING_NAMES}


def _transformer(config_name: str, kind: str) -> Callable[[], nn.Module]:
    import transformers

    config_type, model_type = getattr(transformers, config_name), getattr(transformers, kind)
    full = config_type().to_dict()
    small = shrunk(full)
    layers_only = {
        **full,
        **{k: v for k, v in small.items() if isinstance(v, list) or k in _LAYERS or "vocab" in k},
    }
    builds = []
    for table in (small, layers_only):

        def build(table=table):
            return model_type(config_type.from_dict(table))

        builds.append(build)
    return first_small(builds)


# timm


def timm_models() -> dict[str, Callable[[], Callable[[], nn.Module]]]:
    """The smallest model of each of its modules."""
    import timm

    def build_of(module: str) -> Callable[[], nn.Module]:
        def smallest() -> nn.Module:
            names = timm.list_models(module=module)
            names.sort(key=lambda name: (not _LITTLE.search(name), len(name)))
            sizes = {}
            for name in names[:_TIMM_LOOKS]:
                with torch.device("meta"):
                    sizes[name] = sum(each.numel() for each in timm.create_model(name).parameters())
            name = min(sizes, key=sizes.__getitem__)
            return first_small([lambda: timm.create_model(name)])

        return smallest

    return {module: build_of(module) for module in timm.list_modules()}


# diffusers


def diffusers_models() -> dict[str, Callable[[], nn.Module]]:
    import diffusers.models as package
    from diffusers import ConfigMixin, ModelMixin

    kinds: dict[str, type[nn.Module]] = {}
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "flax" in each.name or each.ispkg:
            continue
        try:
            module = importlib.import_module(each.name)
        except Exception:  # it needs another package
            continue
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, ModelMixin) and issubclass(kind, ConfigMixin):
                if kind.__module__ == each.name:
                    kinds[kind.__name__] = kind

    def build_of(kind: type[nn.Module]) -> Callable[[], nn.Module]:
        def found() -> nn.Module:
            takes = inspect.signature(kind.__init__).parameters
            full = {name: each.default for name, each in takes.items() if each.default is not each.empty}
            full = {name: value for name, value in full.items() if not name.startswith("_")}
            small = shrunk({k: list(v) if isinstance(v, tuple) else v for k, v in full.items()})
            layers = {k: v for k, v in small.items() if "layers" in k}
            return first_small([lambda: kind(**small), lambda: kind(**layers), lambda: kind()])

        return found

    return {name: build_of(kind) for name, kind in sorted(kinds.items())}


# torchtitan


def torchtitan_models() -> dict[str, Callable[[], nn.Module]]:
    """Its models of little size: flavors whose names hold debug, for each attention that builds on a CPU."""
    import torchtitan.models as package

    found: dict[str, Callable[[], nn.Module]] = {}
    for each in pkgutil.iter_modules(package.__path__):
        if not each.ispkg or each.name == "common":
            continue
        try:
            module = importlib.import_module(f"{package.__name__}.{each.name}")
        except ImportError:  # it needs another package
            continue
        tables = [value for name, value in vars(module).items() if name.endswith("_configs")]
        for flavor in next(table for table in tables if isinstance(table, dict)):
            if "debug" in flavor:
                found[f"{each.name}-{flavor}"] = _titan(module, flavor)
    return found


def _titan(module: Any, flavor: str) -> Callable[[], Callable[[], nn.Module]]:
    def build() -> nn.Module:
        model = module.model_registry(flavor).model.build()
        if not next(model.parameters()).is_meta:
            model.init_states()
        return model

    return lambda: first_small([build])
