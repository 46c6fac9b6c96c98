"""intercept: a model's own init code, run on this library's kernels.

A block answers the functions of torch.nn.init (_patch.py), and sees the tensors' own methods by a
TorchFunctionMode, both in its own thread and task. What is not filled here, PyTorch fills.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._C import (
    DisableTorchFunction,
    _are_functorch_transforms_active,
    _get_dispatch_mode,
    _get_tracing_state,
    _TorchDispatchModeKey,
)
from torch._C import _get_function_stack_at as _mode_at
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._C import _len_torch_function_stack as _num_modes
from torch._C import _pop_torch_function_stack as _pop_mode
from torch._C import _push_on_torch_function_stack as _push_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from convinit_ext import init
from convinit_ext._engine import (
    PLAIN,
    SMALL,
    STRIDED,
    SUPPORTED_DTYPES,
    UnsupportedTensorError,
    is_plain,
    ops,
)
from convinit_ext.distributions import Distribution
from convinit_ext.init import fill_
from convinit_ext.intercept import _patch
from convinit_ext.intercept._signatures import (
    DIAGONAL_FUNCTIONS,
    INIT_FUNCTIONS,
    MATRIX_FUNCTIONS,
    METHODS,
    WRONG_ARGUMENTS,
    Request,
)
from convinit_ext.intercept._tracker import Tracker
from convinit_ext.intercept._views import ParameterView
from convinit_ext.keys import INT64_MIN, Key, KeyRow, checked_seed
from convinit_ext.sharding import is_dtensor, is_sharded, local_of, place

_PROXY = _TorchDispatchModeKey.PROXY  # of make_fx


def intercept(model: nn.Module | None = None, seed: int | None = None) -> AbstractContextManager[None]:
    """Run the in-place random fills of PyTorch inside the block on this library's kernels.

    Taken are Tensor.normal_, Tensor.uniform_ and all of torch.nn.init, however they are called and wherever a
    reference to them was taken, in the thread and task that entered; not in compiled or traced code, and not
    other random operations. A tensor that this library does not fill (integer, complex, sparse, meta, fake,
    ...) is filled by PyTorch. A tensor marked `_is_hf_initialized` is left as it is by torch.nn.init, as in
    transformers, and a warning names it.

    With a model, the values of each of its parameters and buffers depend on (seed, name, number of the fill):

    - the first fill in the block has Key(seed, name), the one after n others Key(seed, f"{name}#{n}");
    - a view or slice gets the values that its elements have in a fill of the whole, so that slices can be
      filled in any order. Its number is that of the fills of the whole so far, plus those of the same slice
      since then;
    - orthogonal_ and sparse_ of a slice, a matrix by itself, have a key of their own: the slice's place in
      brackets follows the name.

    Tied parameters count as one, under the first name. Other tensors, and all if there is no model, take
    their keys from a generator: one of the block's own if there is a seed, else PyTorch's default CPU
    generator. A generator= in a call is what that call's key is drawn from, whatever its tensor.

    Args:
        model: whose parameters have names; one that moves or gets memory inside the block is found again.
        seed: in [-2**63, 2**64). None draws one for a model from PyTorch's default CPU generator, with a
            warning where torch.distributed has several ranks, as each draws its own.

    Returns:
        A context manager; blocks may be nested, and the inner one counts.

    Raises:
        TypeError: a model that is not one module, a seed that is not an integer.
        ValueError: a seed out of range, two parameters that share a name, no seed for a sharded model.
        RuntimeError: inside the block, a fill of a view that is no slice of its parameter, such as one of
            another dtype.

    >>> from convinit_ext import Key, init, intercept
    >>> layer = nn.Linear(8, 4)
    >>> with intercept(layer, seed=0):
    ...     w = nn.init.kaiming_normal_(layer.weight)
    >>> torch.equal(w, init.kaiming_normal_(torch.empty(4, 8), key=Key(0, "weight")))
    True
    """
    if isinstance(seed, nn.Module) or not (model is None or isinstance(model, nn.Module)):
        raise TypeError(
            f"intercept takes one model, an nn.Module, but found ({type(model).__name__}, "
            f"{type(seed).__name__}); for several, put them into one module or nest the blocks"
        )
    return _Block(model, None if seed is None else checked_seed(seed))


class _Block(AbstractContextManager[None]):
    """Each entry starts anew: counts, the names, the generator."""

    def __init__(self, model: nn.Module | None, seed: int | None) -> None:
        self._model = model
        self._seed = seed
        self._entries: list[_Fills] = []  # that are open; nothing else holds them

    def __enter__(self) -> None:
        with DisableTorchFunction(), _disable_current_modes(), torch.inference_mode(False):
            if self._model is not None and self._seed is None:
                _check_ranks_agree(self._model)
            fills = _Fills(self._model, self._seed)
        try:
            self._entries.append(fills)
            _patch.push(fills)
            _push_mode(_Mode(fills))
            _drop_closed_modes()
        except BaseException:  # an interrupt: no exit follows
            self._close(fills)
            raise

    def __exit__(self, *error: object) -> None:
        fills = None
        try:
            fills = self._innermost()
            self._close(fills)
        except BaseException:  # an interrupt: once more, from wherever it came
            self._close(fills or self._innermost())
            raise

    def _innermost(self) -> _patch.Handler:
        """Return the entry that ends now: this task's, if others are in the same block."""
        here = [each for each in _patch.handlers() if each in self._entries]
        return (here or self._entries)[-1]

    def _close(self, fills: _patch.Handler) -> None:
        """Undo an entry, however far it came, or as much of that as is not done yet."""
        _patch.pop(fills)
        _drop_closed_modes()
        self._entries[:] = [each for each in self._entries if each is not fills]


def _check_ranks_agree(model: nn.Module) -> None:
    """Refuse, or warn of, a seed that each of several processes draws for itself.

    Raises:
        ValueError: a parameter of which each process has a part.
    """
    num_ranks = place()[1]
    if num_ranks == 1:
        return
    why = (
        f"intercept(model) without seed= draws a seed on each of the {num_ranks} ranks from its own default "
        "generator"
    )
    names = [repr(name) for name, parameter in model.named_parameters() if is_sharded(parameter)]
    if names:
        shown = ", ".join(names[:20]) + f" and {len(names) - 20} more" * (len(names) > 20)
        raise ValueError(
            f"{why}, so that the ranks may fill their parts of {shown} with values of different "
            "seeds: pass the same seed= on all ranks"
        )
    warnings.warn(
        f"{why}, so that replicas may differ: pass the same seed= on all ranks, or one for each rank if they "
        "are to differ",
        stacklevel=3,
    )


class _Mode(TorchFunctionMode):
    """Takes the methods for the innermost block of the task that calls them, whichever block pushed it."""

    def __init__(self, fills: _Fills) -> None:
        super().__init__()
        self._fills = ref(fills, lambda _: _drop_closed_modes())  # where an exit was interrupted

    def is_open(self) -> bool:
        """Return whether the block that pushed it is."""
        fills = self._fills()
        return fills is not None and fills.is_open

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Take the methods, but not from compilers: what they trace is PyTorch's."""
        kwargs = kwargs or {}
        read = METHODS.get(func)
        if read is None or is_compiling():
            return func(*args, **kwargs)
        with DisableTorchFunction():
            fills = _patch.innermost()
            filled = fills.fill_method(read, args, kwargs) if isinstance(fills, _Fills) else None
        return func(*args, **kwargs) if filled is None else filled


def _drop_closed_modes() -> None:
    """Take the modes of blocks that ended off this thread's stack; others stay where they are."""
    modes = [_mode_at(place) for place in range(_num_modes())]
    kept = [mode for mode in modes if not isinstance(mode, _Mode) or mode.is_open()]
    same = next(
        (place for place, (a, b) in enumerate(zip(modes, kept, strict=False)) if a is not b), len(kept)
    )

    def keep() -> None:
        while _num_modes() > same:
            _pop_mode()
        for mode in kept[same:]:
            _push_mode(mode)

    if len(kept) < len(modes):
        try:
            keep()
        except BaseException:  # an interrupt: once more, from wherever it came
            keep()
            raise


class _Fills(_patch.Handler):
    """The fills inside a block, from an entry to its exit."""

    def __init__(self, model: nn.Module | None, seed: int | None) -> None:
        super().__init__()
        self._generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
        if seed is None and model is not None:
            seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_(INT64_MIN, None))
        self._seed = seed or 0
        self._tracker = None if model is None else Tracker(model, self._seed)
        self._rows = [KeyRow(self._seed)]  # that are free: a signal handler may fill inside another fill
        self._warned: set[str] = set()

    def fill_method(
        self, read: Callable[..., Request], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Do what a method does; return None if PyTorch is to do it."""
        try:
            tensor, distribution, generator = read(*args, **kwargs)
        except WRONG_ARGUMENTS:  # PyTorch says better what is wrong with them
            return None
        if _is_left_to_torch(tensor):
            return None
        if tensor.requires_grad and torch.is_grad_enabled():  # PyTorch refuses it, or records it
            return None
        return self._fill(tensor, distribution, generator)

    def answer(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """Do what a function of torch.nn.init does; return None if PyTorch is to do it."""
        with DisableTorchFunction():
            tensor = args[0]
            if not isinstance(tensor, Tensor) or _is_left_to_torch(tensor):
                return None
            if tensor.__dict__.get("_is_hf_initialized"):  # as transformers' own functions
                self._warn_of_mark(name, tensor)
                return tensor
            if name in DIAGONAL_FUNCTIONS:  # PyTorch's are right but for DTensors
                function: Callable[..., Tensor] = getattr(init, name)
                return function(*args) if is_dtensor(tensor) else None
            if name in MATRIX_FUNCTIONS:
                return self._fill_matrix(getattr(init, name), *args)
            try:
                distribution = INIT_FUNCTIONS[name](*args[:-1])
            except WRONG_ARGUMENTS:  # as above
                return None
            return self._fill(tensor, distribution, args[-1])

    def _warn_of_mark(self, function: str, tensor: Tensor) -> None:
        """Say once for each name, where PyTorch's function was called, that it did nothing."""
        view = None if self._tracker is None else self._tracker.view(tensor)
        named = f"a tensor of shape {tuple(tensor.shape)}" if view is None else repr(view.parameter.name)
        if named not in self._warned:
            self._warned.add(named)
            warnings.warn(
                f"torch.nn.init.{function} left {named} as it is: transformers marked it as loaded "
                "(_is_hf_initialized). To fill it inside intercept, set that attribute to False first",
                stacklevel=5,
            )

    def _fill(
        self, tensor: Tensor, distribution: Distribution, generator: torch.Generator | None
    ) -> Tensor | None:
        """Return the tensor, filled; None if it turns out to be one that PyTorch has to fill."""
        view = self._view(tensor, generator)
        try:
            if view is None:
                self._fill_from_generator(tensor, distribution, generator)
                return tensor
            number, parameter = view.number(), view.parameter
            name = view.key_name(number)
            if view.box is None and parameter.is_dtensor:
                with torch.no_grad():
                    fill_(parameter.tensor, distribution, None, Key(self._seed, name))
            else:
                row = None if name is parameter.name else self._take_row()
                words = parameter.words if row is None else row.of(name)
                _fill_box(tensor, distribution, words, view.box)
                if row is not None:
                    self._rows.append(row)
            view.count(number)
        except UnsupportedTensorError:
            return None
        return tensor

    def _view(self, tensor: Tensor, generator: torch.Generator | None) -> ParameterView | None:
        """Return which part of the model the tensor is; None if its key comes from a generator."""
        return None if self._tracker is None or generator is not None else self._tracker.view(tensor)

    def _take_row(self) -> KeyRow:
        if self._rows:
            return self._rows.pop()
        with _disable_current_modes(), torch.inference_mode(False):
            return KeyRow(self._seed)

    def _fill_from_generator(
        self, tensor: Tensor, distribution: Distribution, generator: torch.Generator | None
    ) -> None:
        if generator is None and self._generator is not None and is_plain(tensor) and tensor.is_contiguous():
            row = self._take_row()
            words = row.words.random_(INT64_MIN, None, generator=self._generator)
            _fill_box(tensor, distribution, words, None)
            self._rows.append(row)
        else:
            with torch.no_grad():
                fill_(tensor, distribution, generator or self._generator, None)

    def _fill_matrix(self, function: Callable[..., Tensor], tensor: Tensor, *args: Any) -> Tensor | None:
        """Do what orthogonal_ or sparse_ does. A slice is a matrix by itself, with a key of its own."""
        *given, generator = args
        view = self._view(tensor, generator)
        if view is not None and view.box is not None and is_dtensor(tensor):
            view = None  # no name says which matrix it is: a process knows its own part of it alone
        target, key = tensor, None
        if view is not None:
            number = view.number()
            key = Key(self._seed, view.key_name(number, tensor.shape))
            if view.box is None and view.parameter.is_dtensor:
                target = view.parameter.tensor
        elif generator is None:
            generator = self._generator
        try:
            with torch.no_grad():
                function(target, *given, generator, key=key)
        except UnsupportedTensorError:
            return None
        if view is not None:
            view.count(number)
        return tensor


def _fill_box(tensor: Tensor, distribution: Distribution, words: Tensor, box: ops.Box | None) -> None:
    """Fill a whole parameter, or a box of one; past the dispatcher if it is small and nobody watches."""
    kind, params = distribution.kind, distribution.params
    is_quick = (  # nothing about it would be refused but elements that overlap
        tensor.numel() <= SMALL
        and type(tensor) in PLAIN
        and tensor.is_cpu
        and not (tensor.is_nested or tensor.is_inference() or _dispatch_modes())
    )
    if is_quick and (box is not None or tensor.is_contiguous()):
        ops.fill_small_(tensor, words.data_ptr(), kind, params, box)
    else:
        memory = local_of(tensor)
        with torch.no_grad():  # autograd has rules for views such as chunk's, gradient or not
            ops.fill_one_(memory, words, kind, params, box)
        if memory is not tensor:
            ops.increment_version(tensor)


def _is_left_to_torch(tensor: Tensor) -> bool:
    return (
        _get_tracing_state() is not None  # what is recorded, here or by make_fx, is PyTorch's operation
        or tensor.dtype not in SUPPORTED_DTYPES
        or tensor.layout is not STRIDED
        or tensor.is_meta
        or tensor.numel() == 0
        or tensor.is_neg()
        or (type(tensor) not in PLAIN and isinstance(tensor, FakeTensor))
        or _are_functorch_transforms_active()
        or (_dispatch_modes() > 0 and _get_dispatch_mode(_PROXY) is not None)
    )
