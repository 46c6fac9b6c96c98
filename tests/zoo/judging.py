"""Comparing what a recipe makes of a model with what the model's own library does: right, listed or wrong."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from convinit_ext import init_model_
from convinit_ext.recipes import MODEL_CODE

stats = pytest.importorskip("scipy.stats")

Values = dict[str, Tensor]

_SURE = 1e-8  # of a Kolmogorov-Smirnov test: there are some 100,000
_MOST = 20_000  # elements that it looks at


@dataclass
class Verdict:
    """What a recipe did to a model: the error where it refused, and what is wrong by name."""

    error: str = ""
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return "wrong" if self.wrong else "listed" if self.error else "right"


class Library:
    """A model as its library makes it, by two seeds: what it draws differs."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build
        torch.manual_seed(0)
        self.parameters, self.buffers, self.attributes = values_of(build())
        torch.manual_seed(1)
        self.model = build()
        self._other = values_of(self.model)

    def kind(self, name: str) -> str:
        """Say whether a parameter, buffer or plain attribute is constant, computed (a table) or drawn."""
        held = self.parameters, self.buffers, self.attributes
        at = next(at for at, each in enumerate(held) if name in each)
        first, second = held[at][name], self._other[at][name]
        if not same(first, second):
            return "drawn"
        return "constant" if is_constant(first) else "computed"


def values_of(model: nn.Module) -> tuple[Values, Values, Values]:
    """Copy a model's parameters, buffers and tensors in plain attributes, by every name."""
    held = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    first, second, third = (
        {name: each.detach().clone() for name, each in pairs} for pairs in (*held, _attributes_of(model))
    )
    return first, second, third


def _attributes_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    others = set(map(id, (*model.parameters(), *model.buffers())))
    for path, module in model.named_modules():
        for name in vars(module).keys() - vars(nn.Module()).keys():
            if f"{name}_g" in module._parameters:  # a hook computes it before each call
                continue
            value = vars(module)[name]
            is_list = isinstance(value, list | tuple)
            several = value if isinstance(value, dict) else dict(enumerate(value if is_list else [value]))
            for key, each in several.items():
                if isinstance(each, Tensor) and id(each) not in others:
                    yield f"{path}.{name}[{key}]", each


def same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.is_meta or b.is_meta:
        return False
    return bool(
        torch.equal(a, b)
        or (
            a.is_floating_point()
            and torch.equal(a.isnan(), b.isnan())
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    )


def is_constant(tensor: Tensor) -> bool:
    return not tensor.numel() or bool((tensor == tensor.flatten()[0]).all())


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors may be drawn from one distribution."""
    ends = (each.detach().double().flatten()[:_MOST].numpy() for each in (a, b))
    return a.numel() == 0 or bool(stats.ks_2samp(*ends).pvalue > _SURE)


def judged(library: Library, recipe: str, meta: bool) -> Verdict:
    """Initialise a model with a recipe, on the meta device or in memory, and judge every value."""
    model = library.model
    if meta:
        with torch.device("meta"):
            model = library.build()
    frozen = None if meta else "keep"  # a constant can only be kept where it is
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = init_model_(model, seed=3, recipe=recipe, frozen=frozen)
    except ValueError as error:
        return Verdict(error=str(error))
    by_code = {row.name for row in report.rows if row.initialiser == MODEL_CODE.text}
    faults = (*_of_parameters(library, model, by_code), *_of_buffers(library, model))
    torchs = _of_torch(model) if recipe == "torch" and not meta else ()
    return Verdict(wrong=dict((*faults, *_of_attributes(library, model), *torchs)))


def _of_parameters(library: Library, model: nn.Module, by_code: set[str]) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, value in values_of(model)[0].items():
        owner, _, leaf = name.rpartition(".")
        module, own = modules[owner], library.parameters[name]
        if value.is_meta:
            yield name, "still on the meta device"
        elif not value.isfinite().all():
            yield name, "not finite"
        elif not (_is_right(library.kind(name), leaf, value, own, module)):
            yield name, f"{type(module).__name__}: {_shown(value)}, in its library {_shown(own)}"
        elif name in by_code and not (same(own, value) or alike(own, value)):
            yield name, f"said to be as the model's own code: {_shown(value)}, and that is {_shown(own)}"
        row = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) and row is not None and leaf == "weight" and value[row].any():
            yield name, "the padding row is not zero"


def _is_right(kind: str, leaf: str, value: Tensor, own: Tensor, module: nn.Module) -> bool:
    """Whether a recipe may make this of what the library makes constant, computed or drawn.

    A recipe has distributions and zero biases of its own. It draws layers of torch.nn that are trained, and
    what starts a branch from zero, also where the library's are constant or computed at first.
    """
    if same(value, own):
        return True
    if (
        leaf == "bias" or leaf.startswith("bias_") or leaf.endswith("_bias")
    ):  # zero or drawn, as the recipe says
        return value.ndim <= 1 or not value.any() or kind == "drawn"
    if "norm" in type(module).__name__.lower() and is_constant(value):
        return _has_gain_one(module, value)
    if kind == "drawn":
        return value.numel() == 1 or not is_constant(value)
    is_trained = getattr(module, leaf).requires_grad
    is_layers = type(module).__module__.startswith("torch.nn.") and is_trained
    return (is_layers or not own.any()) and value.ndim >= 2 and not is_constant(value)


def _has_gain_one(module: nn.Module, gain: Tensor) -> bool:
    """Whether a norm layer's values have the root mean square that they should."""
    if bool((gain == 1).all()):
        return True
    made = copy.deepcopy(module).eval()(torch.randn(4, *gain.shape))
    return bool(0.8 < made.float().pow(2).mean().sqrt() < 1.2)


def _of_buffers(library: Library, model: nn.Module) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, value in values_of(model)[1].items():
        own, module = library.buffers.get(name), modules[name.rpartition(".")[0]]
        if own is None:
            continue
        is_gain = "norm" in type(module).__name__.lower() and name.endswith("weight")
        if value.is_meta:
            yield name, "a buffer, still on the meta device"
        elif library.kind(name) != "drawn" and not same(value, own) and not (is_gain and value.eq(1).all()):
            yield name, f"a buffer: {_shown(value)}, in its library {_shown(own)}"


def _of_attributes(library: Library, model: nn.Module) -> Iterator[tuple[str, str]]:
    for name, value in values_of(model)[2].items():
        own = library.attributes.get(name)
        if value.is_meta:
            yield name, "an attribute, still on the meta device"
        elif own is not None and library.kind(name) != "drawn" and not same(value, own):
            yield name, f"an attribute: {_shown(value)}, in its library {_shown(own)}"


def _of_torch(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Hold recipe "torch" against reset_parameters of torch.nn's own types, each once by its shapes."""
    seen = set()
    places = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
    for path, module in model.named_modules():
        shapes = type(module), *(tuple(each.shape) for each in module.parameters(recurse=False))
        is_torchs = type(module).__module__.startswith("torch.nn.modules") and len(shapes) > 1
        if not is_torchs or shapes in seen or not hasattr(module, "reset_parameters"):
            continue
        if "attention" in type(module).__name__.lower() or "Dynamically" in type(module).__name__:
            continue
        if module._forward_pre_hooks:  # of weight_norm: such a module cannot be copied
            continue
        seen.add(shapes)
        fresh = copy.deepcopy(module)
        fresh.reset_parameters()
        for (leaf, value), own in zip(
            module.named_parameters(recurse=False), fresh.parameters(), strict=False
        ):
            is_tied = places[id(value)] > 1
            if path.endswith("dt_proj") and leaf == "bias":  # of a state space: recipe "torch" asks the model
                continue
            if value.requires_grad and not is_tied and not alike(value, own):
                yield f"{path}.{leaf}", f"recipe torch: {_shown(value)}, reset_parameters: {_shown(own)}"


def _shown(tensor: Tensor) -> str:
    values, kind = tensor.detach().double(), f"{list(tensor.shape)} {tensor.dtype}"
    if is_constant(values):
        return f"{kind} of {values.flatten()[0].item():.4g}" if values.numel() else kind
    return f"{kind} of mean {values.mean().item():.3g} and std {values.std().item():.3g}"
