"""Small models of every type that a library has: their configs are shrunk by the names of their numbers."""

import contextlib
import importlib
import inspect
import io
import logging
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
Build = Callable[[], nn.Module]

_MOST = 25_000_000  # parameters of a model
_MOST_OF_TORCHTITAN = 40_000_000  # whose configs are not shrunk
# Ends of names, and the most that such a number is; the first that fits counts.
_SIZES = tuple(
    (re.compile(f"(^|_)({name})$"), size)
    for name, size in (
        (r"positions?|max_\w*positions?\w*|n_ctx|context_length", 64),
        (r"vocab_sizes?|num_embeddings|codebook_size|num_tokens|n_vocab", 120),
        (r"shared_experts", 1),
        (r"experts", 4),
        (r"layers?|blocks?|depth|stages", 2),
        (r"kv_heads|key_value_heads|key_value_groups", 2),
        (r"heads?", 4),
        (r"head_dim|dim_head|d_kv", 16),
        (r"hidden_size|hidden_dim|d_model|embed_dim|embedding_(dim|size)|n_embd|dim|width|d_inner", 64),
        (r"intermediate_size|ffn_dim|d_ff|ff_dim|ffn_hidden_size|n_inner", 96),
        (r"lora_rank", 16),
    )
)
_OPS: list[torch.library.Library] = []
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_CHANNELS = ("block_out_channels", "hidden_sizes", "embed_dims", "hidden_dims")
_OF_SOME_LAYERS = ("stage_names", "out_features", "out_indices", "per_layer_config")
_LITTLE = re.compile("test|atto|femto|pico|nano|tiny|mini|micro|small|xxs|_xs|_s|lite|18|26|50|b0|050")
_LOOKS = 6  # at models of a timm module, for the smallest of them


def shrunk(table: dict[str, Any]) -> dict[str, Any]:
    """Return a config's table with smaller numbers, and lists as long as there are layers."""
    layers = next((table[name] for name in _LAYERS if isinstance(table.get(name), int)), 0)
    found: dict[str, Any] = {}
    for name, value in table.items():
        if not isinstance(name, str) or isinstance(value, bool):  # labels have numbers for names
            found[name] = value
        elif isinstance(value, dict):
            found[name] = shrunk(value)
        elif isinstance(value, int):
            found[name] = min(value, 3) if name.endswith("_token_id") else _smaller(name, value)
        elif isinstance(value, list | tuple) and layers > 2 and len(value) == layers:
            found[name] = [value[0], next((each for each in value if each != value[0]), value[0])]
        elif name.endswith(_CHANNELS) and isinstance(value, list | tuple) and isinstance(value[0], int):
            found[name] = [each * 32 // value[0] // 32 * 32 for each in value]
        elif name not in _OF_SOME_LAYERS:
            found[name] = value
    return found


def _smaller(name: str, value: int) -> int:
    return next((min(value, size) for pattern, size in _SIZES if pattern.search(name)), value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from talking: their warnings are not what the sweep is about."""
    logging.disable(logging.ERROR)
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), silent[0], silent[1]:
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def first_small(builds: Sequence[Build], most: int = _MOST) -> Build:
    """Return the first of several ways to build a model that works and is small; tried on the meta device."""
    reason: Exception = ValueError("no way to build it")
    for build in builds:
        try:
            with torch.device("meta"):
                model = build()
        except Exception as error:
            reason = error
            continue
        if sum(each.numel() for each in model.parameters()) <= most:
            return build
        reason = ValueError("too large")
    raise reason


_KINDS = (
    "PRETRAINING",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_CLASSIFICATION",
    "MASKED_LM",
    "IMAGE_TEXT_TO_TEXT",
    "OBJECT_DETECTION",
)


def without_torchvisions_ops() -> None:
    """Let torchvision be imported where its compiled part is for another build of torch: types need none."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPS.append(library)  # what it defines lasts as long


def transformers_models() -> dict[str, Callable[[], Build]]:
    """Each model type, as the first of its kinds of model with a head."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    mappings = [getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES") for kind in _KINDS]
    mappings.append(modeling_auto.MODEL_MAPPING_NAMES)
    found = {}
    for name in dict.fromkeys(name for mapping in mappings for name in mapping):
        kind = next(mapping[name] for mapping in mappings if name in mapping)
        kind = kind if isinstance(kind, str) else kind[0]
        if name in CONFIG_MAPPING_NAMES:
            found[name] = lambda name=name, kind=kind: _transformer(CONFIG_MAPPING_NAMES[name], kind)
    return found


def _transformer(config_name: str, kind: str) -> Build:
    import transformers

    config_type, model_type = getattr(transformers, config_name), getattr(transformers, kind)
    full = config_type().to_dict()
    small = shrunk(full)
    known = (name for name in small if name in _LAYERS or "vocab" in name or isinstance(small[name], list))
    shallow = {**full, **{name: small[name] for name in known}}
    return first_small(
        [lambda table=table: model_type(config_type.from_dict(table)) for table in (small, shallow)]
    )


def timm_models() -> dict[str, Callable[[], Build]]:
    """The smallest model of each of timm's modules."""
    import timm

    def smallest(module: str) -> Build:
        names = timm.list_models(module=module)
        names.sort(key=lambda name: (not _LITTLE.search(name), len(name)))
        sizes = {}
        for name in names[:_LOOKS]:
            with torch.device("meta"):
                sizes[name] = sum(each.numel() for each in timm.create_model(name).parameters())
        name = min(sizes, key=sizes.__getitem__)
        return first_small([lambda: timm.create_model(name, num_classes=10)])

    return {module: lambda module=module: smallest(module) for module in timm.list_modules()}


def diffusers_models() -> dict[str, Callable[[], Build]]:
    """Each type of model whose arguments have defaults."""
    import diffusers.models as package
    from diffusers import ConfigMixin, ModelMixin

    kinds: dict[str, type[nn.Module]] = {}
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            module = importlib.import_module(each.name)
        except Exception:  # it needs another package
            continue
        for kind in vars(module).values():
            is_model = (
                inspect.isclass(kind) and issubclass(kind, ModelMixin) and issubclass(kind, ConfigMixin)
            )
            if is_model and kind.__module__ == each.name:
                kinds[kind.__name__] = kind

    def build_of(kind: Any) -> Build:
        takes = inspect.signature(kind.__init__).parameters.items()
        small = shrunk({name: each.default for name, each in takes if each.default is not each.empty})
        shallow = {name: value for name, value in small.items() if name.endswith("layers")}
        return first_small([lambda: kind(**small), lambda: kind(**shallow), kind])

    return {name: lambda kind=kind: build_of(kind) for name, kind in sorted(kinds.items())}


def torchtitan_models() -> dict[str, Callable[[], Build]]:
    """Each model's flavors whose names hold debug, made as a trainer makes them."""
    import torchtitan.models as package

    def built(module: Any, flavor: str) -> nn.Module:
        model = module.model_registry(flavor).model.build()
        if not next(model.parameters()).is_meta:
            model.init_states()
        return model

    found = {}
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
                found[f"{each.name}-{flavor}"] = lambda module=module, flavor=flavor: first_small(
                    [lambda: built(module, flavor)], most=_MOST_OF_TORCHTITAN
                )
    return found


FAMILIES = {
    "transformers": transformers_models,
    "timm": timm_models,
    "diffusers": diffusers_models,
    "torchtitan": torchtitan_models,
}
