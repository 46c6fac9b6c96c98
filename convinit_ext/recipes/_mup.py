"""The recipe `mup`: Maximal Update Parametrization, any recipe whose values a smaller model tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os import PathLike
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize

from convinit_ext import distributions
from convinit_ext.keys import canonical_name
from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._initialisers import ZEROS
from convinit_ext.recipes._known import RECURRENT_TYPES, WEIGHT_OR_BIAS, is_rescaled
from convinit_ext.recipes._patterns import Pattern
from convinit_ext.recipes._recipe import Recipe, as_recipe
from convinit_ext.recipes._rules import Division, Rule, scaled
from convinit_ext.recipes._target import Target, layout_of
from convinit_ext.recipes._transformers import is_matrix_of_layer
from convinit_ext.sharding import logical_shape

Base: TypeAlias = nn.Module | Mapping[str, Sequence[int | None]]
_PARTS = ("parametrizations.{}.original", "parametrizations.{}.original1", "{}_v", "{}_orig")  # of a weight
_OWN_SIZES = (*RECURRENT_TYPES, nn.MultiheadAttention)  # their values follow attributes, not shapes


class MupRow(NamedTuple):
    """What is decided of one parameter.

    Args:
        name: canonical name.
        kind: "hidden" where inputs and outputs grow with the width, "readout" where the inputs alone do,
            "vector" where another one dimension does (input weights, embeddings, biases, gains), or "fixed".
        width: by how much its inputs, or else its one dimension, are more than the base's.
        std: factor of the base's standard deviation.
        adam: factor of the learning rate for Adam and its like.
        sgd: likewise for SGD.
    """

    name: str
    kind: str
    width: float = 1.0
    std: float = 1.0
    adam: float = 1.0
    sgd: float = 1.0


class MupTable(tuple[MupRow, ...]):
    """A row for each parameter; as text a table."""

    def __str__(self) -> str:
        texts = [MupRow._fields, *([row[0], row[1], *(f"{each:.6g}" for each in row[2:])] for row in self)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in texts
        )


def mup(
    base: Base, inner: str | PathLike[str] | Recipe | Sequence[Rule] = "torch", readout: Pattern | None = None
) -> Recipe:
    """Return a recipe in which the learning rate that is best for a small model is best for a wide one.

    Each parameter gets what the inner recipe says of the base's parameter, of its shape; hidden weights are
    divided by sqrt(width), readouts by width. A readout whose own forward pass divides by the width (the
    library mup's MuReadout) keeps the base's std. Learning rates are up to you: mup_groups().

    Args:
        base: a narrow model of the same parameter names and numbers of dimensions, which may be on the meta
            device; or its shapes by name, None for a dimension that does not grow whatever the sizes.
        inner: what says the values of the base.
        readout: pattern on the names of weights from the width to a fixed number that are of no layer known.

    Raises:
        TypeError, ValueError: another base; an inner recipe that is none. When used: a parameter that the
            base has not, or with other dimensions; more than two that grow; values that cannot be scaled.

    Source: Yang & Hu et al. 2022, Tensor Programs V, table 3; microsoft/mup.

    >>> def build(width):
    ...     return nn.Sequential(nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2))
    >>> from convinit_ext import plan_model
    >>> rows = plan_model(build(64), recipe=mup(build(16), "he")).report.rows
    >>> rows[2].initialiser
    "kaiming_normal_(nonlinearity='relu') / 2 (mup hidden, width 4)"
    """
    recipe, scale = as_recipe(inner), _ByWidth(_Base(base), readout)
    zeros = Rule(ZEROS, parameter=WEIGHT_OR_BIAS, where=_starts_from_zero, allow_unused=True)
    return Recipe((zeros, *scaled(recipe.rules, scale)), f"mup({recipe.name})", recipe.defaults)


def mup_table(model: nn.Module, base: Base, readout: Pattern | None = None) -> MupTable:
    """Return what `mup` decides of each parameter: its kind, and the factors of its std and learning rates.

    Args:
        model: the wide one.
        base, readout: as for mup().

    Raises:
        TypeError, ValueError: as mup() when it is used.

    >>> print(mup_table(nn.Linear(64, 64, bias=False), nn.Linear(16, 16, bias=False)))
    name    kind    width  std  adam  sgd
    weight  hidden  4      0.5  0.25  1
    """
    scale = _ByWidth(_Base(base), readout)
    return MupTable(scale.judge(target)[0] for target in _distinct(model))


def mup_groups(
    model: nn.Module,
    base: Base,
    lr: float,
    optimizer: Literal["adam", "sgd"] = "adam",
    weight_decay: float = 0.0,
    readout: Pattern | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer of PyTorch, each with its learning rate and weight decay.

    Args:
        model, base, readout: as for mup_table().
        lr: of the base.
        optimizer: "adam", for AdamW, RMSProp and their like too, or "sgd".
        weight_decay: of the base; its product with the learning rate is the same in all groups.

    Raises:
        TypeError, ValueError: another optimizer; rates that are no numbers from 0; what mup_table() raises.

    Source: MuAdam and MuSGD of microsoft/mup.

    >>> groups = mup_groups(nn.Linear(64, 64), nn.Linear(16, 16), lr=0.01)
    >>> [(group["lr"], len(group["params"])) for group in groups]
    [(0.0025, 1), (0.01, 1)]
    """
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer must be 'adam' or 'sgd', not {optimizer!r}")
    for what, given in (("lr", lr), ("weight_decay", weight_decay)):
        if distributions.as_finite(given, what) < 0.0:
            raise ValueError(f"{what} must be 0 or more, but found {given:.6g}")
    scale, groups = _ByWidth(_Base(base), readout), dict[float, list[nn.Parameter]]()
    for target in _distinct(model):
        factor = getattr(scale.judge(target)[0], optimizer)
        groups.setdefault(factor, []).append(target.tensor)  # type: ignore[arg-type]  # it is a parameter
    return [
        {"params": each, "lr": lr * factor, "weight_decay": weight_decay / factor}
        for factor, each in sorted(groups.items())
    ]


def _targets(module: nn.Module, parents: tuple[nn.Module, ...] = (), path: str = "") -> Iterator[Target]:
    for leaf, each in module._parameters.items():
        if each is not None:
            yield Target(canonical_name(f"{path}{leaf}"), leaf, each, module, parents)
    for name, child in module._modules.items():
        if child is not None:
            yield from _targets(child, (*parents, module), f"{path}{name}.")


def _starts_from_zero(target: Target) -> bool:
    """Whether it is of a readout of the library mup that is asked to."""
    return target.module.__dict__.get("readout_zero_init") is True


def _distinct(model: nn.Module) -> list[Target]:
    """Return the parameters, those that are tied once under their first names."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    found: dict[int, Target] = {}
    for target in _targets(model):
        found.setdefault(id(target.tensor), target)
    return [*found.values()]


class _Base:
    """The parameters of the base by name. It shows itself by their shapes, which processes compare."""

    def __init__(self, base: Base) -> None:
        if isinstance(base, nn.Module):
            self._targets = {each.name: each for each in _targets(base)}
            shapes: Mapping[str, Any] = {
                name: logical_shape(each.tensor) for name, each in self._targets.items()
            }
        elif isinstance(base, Mapping):
            self._targets, shapes = {}, {canonical_name(str(name)): shape for name, shape in base.items()}
        else:
            raise TypeError(f"base must be a model or its shapes by name, not {type(base).__name__}")
        self.shapes = {name: _checked(name, shape) for name, shape in shapes.items()}
        if not self.shapes:
            raise ValueError("base has no parameters")

    def __repr__(self) -> str:
        return repr(self.shapes)

    def of(self, target: Target) -> Target:
        """Return the base's parameter in a parameter's place."""
        head, _, leaf = target.name.rpartition(".")
        inside = [f"{head}.{each}".lstrip(".") for each in (leaf, *(part.format(leaf) for part in _PARTS))]
        name = next((each for each in inside if each in self.shapes), None)
        if name is None:
            near = get_close_matches(target.name, self.shapes, n=3, cutoff=0.3)
            hint = f"; it has {', '.join(map(repr, near))}" if near else ""
            raise ValueError(f"the base of mup has no parameter of this name{hint}")
        own, found = tuple(logical_shape(target.tensor)), self.shapes[name]
        if len(own) != len(found):
            raise ValueError(
                f"it has shape {list(own)}, and in the base of mup {list(found)}: accepted are as many "
                "dimensions"
            )
        if name not in self._targets:
            return self._of_shape(target, _sizes(own, found))
        base = self._targets[name]
        if "parametrizations" in name and isinstance(base.module, parametrize.ParametrizationList):
            *parents, module, _ = base.parents  # of the plain weight
            base = replace(base, module=module, parents=tuple(parents))
        return replace(base, name=target.name, parameter=leaf, fan=target.fan)

    def _of_shape(self, target: Target, shape: tuple[int, ...]) -> Target:
        """Return a parameter of another shape in a module of such parameters, and otherwise as it is."""
        module, head = target.module, target.name.rpartition(".")[0]
        is_grouped = module.__dict__.get("groups", 1) != 1  # whose number may grow
        if isinstance(module, _OWN_SIZES) or parametrize.is_parametrized(module) or is_grouped:
            raise ValueError(
                f"shapes alone do not say what a narrower {type(module).__name__} starts from; pass the base "
                "model itself, which may be on the meta device"
            )
        narrow = object.__new__(type(module))
        narrow.__dict__.update(module.__dict__)
        narrow.__dict__["_parameters"] = {
            leaf: _meta(each, self.shapes.get(f"{head}.{leaf}".lstrip(".")))
            for leaf, each in module._parameters.items()
        }
        tensor = torch.empty(shape, dtype=target.tensor.dtype, device="meta")
        return replace(target, tensor=tensor, module=narrow)


def _meta(tensor: torch.Tensor | None, shape: Sequence[int | None] | None) -> nn.Parameter | None:
    if tensor is None:
        return None
    sizes = tensor.shape if shape is None else _sizes(tensor.shape, shape)
    return nn.Parameter(torch.empty(sizes, dtype=tensor.dtype, device="meta"), requires_grad=False)


def _sizes(own: Sequence[int], base: Sequence[int | None]) -> tuple[int, ...]:
    """Return the shape in the base, where None stands for a dimension that does not grow."""
    return tuple(wide if size is None else size for wide, size in zip(own, base, strict=True))


def _checked(name: str, shape: object) -> tuple[int | None, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
    if sizes is None or not all(each is None or (type(each) is int and each > 0) for each in sizes):
        raise ValueError(f"base[{name!r}] must be a shape, of ints from 1 or None, not {shape!r}")
    return sizes


def _role(target: Target, own: tuple[int, ...], dim: int, size: int) -> str:
    """Return whether a dimension of a shape counts inputs or outputs, by what another size changes."""
    if len(own) < 2:
        return ""
    layout = layout_of(target)._replace(groups=1, blocks=1)._asdict()
    of_own, of_other = (
        distributions.fans(each, **layout) for each in (own, (*own[:dim], size, *own[dim + 1 :]))
    )
    changed = [a != b for a, b in zip(of_own, of_other, strict=True)]
    if sum(changed) != 1:
        return f"dimension {dim}"
    return "inputs" if changed[0] else "outputs"


@dataclass(frozen=True, slots=True)
class _ByWidth:
    """How a parameter depends on the width, by its shape and the base's."""

    base: _Base
    readout: Pattern | None

    def __post_init__(self) -> None:
        if self.readout is not None:
            patterns.check(self.readout, "readout")

    def __call__(self, target: Target) -> Division:
        row, base = self.judge(target)
        why = "" if row.kind == "fixed" else f"(mup {row.kind}, width {row.width:.6g})"
        if is_rescaled(target):
            return Division(1.0, why)  # its own rule takes the width into account
        divisor = 1.0 if row.std == 1 else row.width if row.kind == "readout" else row.width**0.5
        return Division(divisor, f"/ {divisor:.6g} {why}" if divisor != 1 else why, base)

    def judge(self, target: Target) -> tuple[MupRow, Target]:
        """Return what is decided of a parameter, and the base's."""
        base, name = self.base.of(target), target.name
        own, narrow = tuple(logical_shape(target.tensor)), tuple(base.tensor.shape)
        grown = [dim for dim, sizes in enumerate(zip(own, narrow, strict=True)) if sizes[0] != sizes[1]]
        width = {_role(target, own, dim, narrow[dim]): own[dim] / narrow[dim] for dim in grown}
        if not grown:
            return MupRow(name, "fixed"), base
        if len(grown) == 2 and width.keys() == {"inputs", "outputs"}:
            inputs, outputs = width["inputs"], width["outputs"]
            return MupRow(name, "hidden", inputs, inputs**-0.5, 1 / inputs, outputs / inputs), base
        if len(grown) > 1:
            raise ValueError(
                f"{list(own)} grows from {list(narrow)} in {len(grown)} dimensions, and not in one of inputs "
                "and one of outputs"
            )
        ((role, only),) = width.items()
        if role != "inputs" or not self._reads_out(target):
            return MupRow(name, "vector", only, sgd=only), base
        if "readout_zero_init" in target.module.__dict__:  # mup's MuReadout divides by itself
            return MupRow(name, "readout", only, sgd=only), base
        return MupRow(name, "readout", only, *[1 / only] * 3), base

    def _reads_out(self, target: Target) -> bool:
        if self.readout is not None and patterns.matches(self.readout, target.name):
            return True
        return is_matrix_of_layer(target) and "Embedding" not in " ".join(
            each.__name__ for each in type(target.module).__mro__
        )
