"""A parameter as a rule sees it: its names, its shape, the modules around it, and the fans that it has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convinit_ext import distributions
from convinit_ext.distributions import PYTORCH, Axes, Axis, are_pytorchs
from convinit_ext.recipes._derived import NormOf, Transformed

Fan: TypeAlias = Literal["true", "torch"]
FANS: tuple[Fan, ...] = ("true", "torch")


@dataclass(slots=True, eq=False)
class Target:
    """One parameter as a rule sees it: its names, its tensor's shape, and the modules around it.

    Args:
        name: canonical full name, "layer1.0.conv1.weight".
        parameter: the name inside its module, "weight".
        tensor: the parameter; its values do not count, and are not there yet in a meta model. A rule's own
            functions see one on the meta device in its place, of the same shape, dtype and attributes.
        module: the module that owns it.
        parents: the modules around `module`, outermost first.
        fan: whose fans count where an initialiser does not say: the true ones, or PyTorch's.
        plain: of a parametrized weight: the same tensor as the weight that the module would have without.
        start: of a part that no rule for the plain weight is for: its values. The magnitude of weight
            normalisation is the norm of the other part.
    """

    name: str
    parameter: str
    tensor: Tensor
    module: Any  # an nn.Module; rules read attributes that only its own type has
    parents: tuple[nn.Module, ...] = ()
    fan: Fan = "true"
    plain: Target | None = None
    start: NormOf | Transformed | None = None

    def fans(self, fan: Fan | None = None, axes: Axes = PYTORCH) -> tuple[int, int]:
        """Return (fan_in, fan_out), the true ones or PyTorch's.

        They differ in transposed and in grouped convolutions, in transformers' Conv1D, and where a
        MultiheadAttention packs query, key and value. Of experts in one tensor they are those of one expert.

        Args:
            fan: whose; None is what the call says.
            axes: which axes are what, where that is not as the module has it.

        Raises:
            ValueError: fewer than 2 dimensions; axes or blocks that the shape cannot have.
        """
        layout = layout_of(self) if (fan or self.fan) != "torch" or is_expert_stack(self) else _AS_PYTORCH
        if not are_pytorchs(axes._replace(blocks=1)):
            layout = Layout(1, False, *axes)
        elif axes.blocks != 1:
            layout = layout._replace(blocks=axes.blocks)
        return distributions.fans(tuple(self.tensor.shape), **layout._asdict())


def check_axes(init: Any) -> None:
    """Check the axes and blocks of an initialiser, and make plain tuples and numbers of a file's and NumPy's.

    Raises:
        TypeError, ValueError: an axis that is no integer; blocks that are none.
    """
    for name in ("in_axis", "out_axis", "batch_axis"):
        given = getattr(init, name)
        if given is not None:
            axes = distributions.as_axes(given, name)
            object.__setattr__(init, name, axes if isinstance(given, list | tuple) else axes[0])
    object.__setattr__(init, "blocks", distributions.as_blocks(init.blocks))


class Layout(NamedTuple):
    """What decides fans beside the shape, as distributions.fans takes it."""

    groups: int = 1
    transposed: bool = False
    in_axis: Axis | None = None
    out_axis: Axis | None = None
    batch_axis: Axis = ()
    blocks: int = 1


_AS_PYTORCH = Layout()


def layout_of(target: Target) -> Layout:
    """Return what the axes of a parameter are to its module."""
    module = target.module
    if is_expert_stack(target):
        return Layout(batch_axis=0, in_axis=1 if _experts_transposed(module) else 2)
    if isinstance(module, _ConvNd):
        return Layout(module.groups, module.transposed) if target.tensor.ndim > 2 else _AS_PYTORCH
    if is_conv1d(module.__class__):
        return Layout(transposed=True)
    if target.parameter == "in_proj_weight" and isinstance(module, nn.MultiheadAttention):
        return Layout(blocks=3) if target.tensor.shape[0] == 3 * module.embed_dim else _AS_PYTORCH
    return _AS_PYTORCH


_EXPERT_MATRICES = ("gate_up_proj", "down_proj", "gate_proj", "up_proj")


def is_expert_stack(target: Target) -> bool:
    """Whether it holds a matrix of each of many experts: [experts, out, in], or [experts, in, out]."""
    if target.tensor.ndim != 3:
        return False
    name = target.parameter
    return name in _EXPERT_MATRICES or (
        name in ("w1", "w2", "w3") and "Expert" in type(target.module).__name__
    )


def _experts_transposed(module: Any) -> bool:
    """Whether the matrices of experts are [in, out], as their shapes say or, where both fit, the module."""
    first, second = (module._parameters.get(name) for name in ("gate_up_proj", "down_proj"))
    if first is not None and second is not None and first.ndim == second.ndim == 3:
        _, rows, columns = first.shape
        _, inner, outer = second.shape
        if (rows, columns) == (2 * outer, inner):
            return False
        if (rows, columns) == (outer, 2 * inner):
            return True
    return bool(getattr(module, "is_transposed", False))


@lru_cache(maxsize=1024)
def is_conv1d(kind: type) -> bool:
    """Whether a module type is the Conv1D of transformers: a linear layer whose weight is [in, out]."""
    return any(
        each.__name__ == "Conv1D" and each.__module__.partition(".")[0] == "transformers"
        for each in kind.__mro__
    )
