"""Fans, gains: how many inputs feed one output of a weight, and what a nonlinearity does. Numbers only."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

FAN_MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")

_GAINS: dict[str, float] = {
    "linear": 1,
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "sigmoid": 1,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}

Axis: TypeAlias = int | Sequence[int]


class Axes(NamedTuple):
    """Which axes of a weight are what, as `fans` takes them; the default is [out, in, *kernel]."""

    in_axis: Axis | None = None
    out_axis: Axis | None = None
    batch_axis: Axis = ()
    blocks: int = 1


PYTORCH = Axes()


def are_pytorchs(axes: tuple[object, ...]) -> bool:
    """Return whether all four are the default.

    >>> are_pytorchs(PYTORCH), are_pytorchs(Axes(batch_axis=0))
    (True, False)
    """
    try:
        return axes == PYTORCH
    except ValueError:  # NumPy's numbers and arrays are not equal or unequal to ()
        return False


def fans(
    shape: Sequence[int],
    *,
    groups: int = 1,
    transposed: bool = False,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> tuple[int, int]:
    """How many inputs feed one output, and how many outputs one input feeds: (fan_in, fan_out).

    The axes that are neither in, out nor batch are a kernel's: both fans are multiplied by their sizes.

    Args:
        shape: a weight's shape, [out, in / groups, *kernel], or if transposed [in, out / groups, *kernel].
        groups: of the convolution. PyTorch's own fan_out ignores it (its groups is always 1).
        transposed: whether the weight is that of a ConvTranspose. PyTorch's own fans ignore it.
        in_axis: the axis of the inputs, or a tuple of them. None is the first that is left, after out_axis.
        out_axis: the axis of the outputs, or a tuple of them. None is the first that is left.
        batch_axis: the axis of weights that do not meet, as of experts, or a tuple of them.
        blocks: how many matrices are on top of each other in dim 0 (if transposed next to each other in
            dim 1), each with fans of its own.

    Raises:
        ValueError: fewer than 2 dimensions, unless both axes are given; groups or blocks that do not divide
            the first; an axis that is not there, is twice, or is missing; groups or transposed with axes;
            groups with blocks; blocks of a dim 0 that is not in out_axis.
        TypeError: an axis or blocks that is no integer.

    Source: torch.nn.init._calculate_fan_in_and_fan_out; jax.nn.initializers.variance_scaling for the axes.

    >>> fans((64, 16, 3, 3)), fans((64, 16, 3, 3), groups=4)
    ((144, 576), (144, 144))
    >>> fans((8, 64, 16), batch_axis=0, in_axis=1), fans((3 * 64, 64), blocks=3)
    ((64, 16), (64, 64))
    """
    if len(shape) < 2 and (in_axis is None or out_axis is None):
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    if type(groups) is not int:
        groups = _whole(groups, "groups")
    if not are_pytorchs((in_axis, out_axis, batch_axis, blocks)):
        axes = Axes(in_axis, out_axis, batch_axis, blocks)
        if groups != 1 or (transposed and not are_pytorchs(axes._replace(blocks=1))):
            what = f"groups={groups}" if groups != 1 else "a transposed convolution"
            raise ValueError(
                f"{what} says what the axes of a weight are, as in_axis=, out_axis=, batch_axis= and blocks= "
                "do; accepted is the one or the others"
            )
        return _fans_of_axes((shape[1], shape[0], *shape[2:]) if transposed else shape, axes)
    first, second, *kernel = shape
    if groups != 1:
        first //= as_groups(groups, first)
    receptive_field = 1
    for size in kernel:
        receptive_field *= size
    fan_in, fan_out = second * receptive_field, first * receptive_field
    return (fan_out, fan_in) if transposed else (fan_in, fan_out)


def _fans_of_axes(shape: Sequence[int], axes: Axes) -> tuple[int, int]:
    fan_in = fan_out = 1
    for axis, (size, role) in enumerate(zip(shape, roles_of(shape, axes), strict=True)):
        size //= axes.blocks if axis == 0 else 1
        fan_in *= size if role in ("in_axis", "") else 1
        fan_out *= size if role in ("out_axis", "") else 1
    return fan_in, fan_out


def roles_of(shape: Sequence[int], axes: Axes) -> list[str]:
    """Return of each axis in which argument it is: "in_axis", "out_axis", "batch_axis"; a kernel's is in "".

    Raises:
        ValueError, TypeError: as `fans`.

    >>> roles_of((8, 64, 16, 3), Axes(in_axis=1, batch_axis=0))
    ['batch_axis', 'in_axis', 'out_axis', '']
    """
    roles = [""] * len(shape)
    for role in ("batch_axis", "in_axis", "out_axis"):
        for axis in as_axes(getattr(axes, role), role):
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"{role} has {axis}, and shape {list(shape)} only axes {-len(shape)} to {len(shape) - 1}"
                )
            axis %= len(shape)
            if roles[axis]:
                where = f"twice in {role}" if roles[axis] == role else f"in both {roles[axis]} and {role}"
                raise ValueError(f"axis {axis} is {where}; accepted is each axis once")
            roles[axis] = role
    for role in ("out_axis", "in_axis"):
        if getattr(axes, role) is None:
            if "" not in roles:
                raise ValueError(
                    f"no axis of shape {list(shape)} is left for {role}; () says that it has none"
                )
            roles[roles.index("")] = role
    if as_blocks(axes.blocks) != 1:
        _check_blocks(shape[0] if shape else 1, axes.blocks, roles[0] if shape else "")
    return roles


def _check_blocks(size: int, blocks: int, role: str) -> None:
    if role != "out_axis":
        raise ValueError(
            f"blocks={blocks} says that dim 0 is so many matrices on top of each other, for which it must be "
            f"in out_axis, and it is {'in ' + role if role else 'of the kernel'}"
        )
    if size % blocks:
        raise ValueError(f"the outputs must be divisible by blocks, but found {size} and blocks={blocks}")


class Matrices(NamedTuple):
    """The matrices that a weight holds.

    Args:
        sizes: of the weight's axes, dim 0 cut into blocks and what is in each.
        order: of these axes, with which the matrices lie one after the other, row by row.
        number, rows, columns: of the matrices.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    number: int
    rows: int
    columns: int


def matrices_of(shape: Sequence[int], axes: Axes = PYTORCH) -> Matrices:
    """Return the matrices of a weight: a row for each output, a column for each place of its inputs.

    Raises:
        ValueError, TypeError: fewer than 2 dimensions; blocks that do not divide the first; as `fans`.

    >>> matrices_of((8, 64, 16), Axes(batch_axis=0, in_axis=1))
    Matrices(sizes=(1, 8, 64, 16), order=(0, 1, 3, 2), number=8, rows=16, columns=64)
    """
    if len(shape) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    blocks, first = as_blocks(axes.blocks), shape[0]
    if first % blocks:
        raise ValueError(f"blocks must divide dim 0, but found {first} and blocks={blocks}")
    sizes = blocks, first // blocks, *shape[1:]
    roles = ["batch_axis", *roles_of(shape, axes)]
    groups = [
        [axis for axis, role in enumerate(roles) if role in each]
        for each in (("batch_axis",), ("out_axis",), ("in_axis", ""))
    ]
    number, rows, columns = [math.prod([sizes[axis] for axis in group]) for group in groups]
    return Matrices(sizes, tuple([axis for group in groups for axis in group]), number, rows, columns)


def as_axes(given: Axis | None, what: str) -> tuple[int, ...]:
    """Return one axis, several or none as a tuple; raise TypeError for what is neither.

    >>> as_axes(-1, "in_axis"), as_axes([0, 2], "in_axis")
    ((-1,), (0, 2))
    """
    axes = () if given is None else given if isinstance(given, list | tuple) else (given,)
    try:
        return tuple(map(operator.index, axes))
    except TypeError:
        raise TypeError(f"{what} must be an int or a tuple of ints, not {given!r}") from None


def as_blocks(given: int) -> int:
    """Return the number of blocks; raise TypeError or ValueError for no integer, or one less than 1."""
    blocks = _whole(given, "blocks")
    if blocks < 1:
        raise ValueError(f"blocks must be 1 or more, but found {blocks}")
    return blocks


def as_groups(given: int, size: int) -> int:
    """Return the number of groups; raise TypeError or ValueError unless it divides dim 0, of this size."""
    groups = _whole(given, "groups")
    if groups < 1 or size % groups:
        raise ValueError(f"dim 0 must be divisible by groups, but found {size} and groups={groups}")
    return groups


def _whole(given: int, what: str) -> int:
    try:
        return +operator.index(given)  # of True a number, which views want
    except (TypeError, ValueError):  # the last of a tensor of several elements
        raise TypeError(f"{what} must be an int, not {given!r}") from None


def as_finite(given: float, what: str) -> float:
    """Return an argument after checking that it is a finite number.

    Raises:
        TypeError, ValueError, OverflowError, RuntimeError: no number, as a text or several; not finite.
    """
    try:
        number = float(1.0 * given)  # a string would be one too
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise type(error)(f"{what} must be a number, not {given!r}") from error
    if not -math.inf < number < math.inf:
        raise ValueError(f"{what} must be finite, but found {number}")
    return number


def as_plain(number: float, what: str) -> float:
    """Return a number, as NumPy's or a tensor's, as one of Python's, which is written without its type.

    >>> as_plain(True, "a"), as_plain(2, "a")
    (1.0, 2)
    """
    return number if type(number) in (int, float) else as_finite(number, what)


def fan_of(mode: str, fan_in: int, fan_out: int) -> float:
    """Return what variance scaling divides by: fan_in, fan_out, or their arithmetic or geometric mean.

    >>> [fan_of(mode, 2, 8) for mode in FAN_MODES]
    [2, 8, 5.0, 4.0]
    """
    if mode == "fan_in":
        return fan_in
    if mode == "fan_out":
        return fan_out
    if mode == "fan_avg":
        return (fan_in + fan_out) / 2
    if mode == "fan_geo_avg":
        return math.sqrt(fan_in * fan_out)
    raise ValueError(f"Mode {mode} not supported, please use one of {list(FAN_MODES)}")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the scale of activations through a nonlinearity.

    Args:
        nonlinearity: name of a function of torch.nn.functional.
        param: negative slope of leaky_relu (default 0.01); the others take none.

    Raises:
        ValueError: a name that is not listed, a slope that is not a number.

    Source: torch.nn.init.calculate_gain.

    >>> calculate_gain("leaky_relu", 0.0) == calculate_gain("relu") == 2**0.5
    True
    """
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        elif isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        try:
            return math.sqrt(2.0 / (1 + param**2))
        except OverflowError as error:
            raise OverflowError(f"negative_slope {param} is beyond float64") from error
    gain = _GAINS.get(nonlinearity) if isinstance(nonlinearity, str) else None
    if gain is None:
        raise ValueError(
            f"Unsupported nonlinearity {nonlinearity}, please use one of {['leaky_relu', *_GAINS]}"
        )
    return gain
