"""The fills inside a block of intercept: the key of each. What is not filled here, PyTorch fills."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (
    DisableTorchFunction,
    _are_functorch_transforms_active,
    _get_dispatch_mode,
    _get_tracing_state,
    _TorchDispatchModeKey,
)
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from convinit_ext import init
from convinit_ext._engine import (
    PLAIN,
    SMALL_BYTES,
    SUPPORTED_DTYPES,
    UnsupportedTensorError,
    is_plain,
    ops,
)
from convinit_ext.distributions import Distribution
from convinit_ext.init import check_not_lost, fill_
from convinit_ext.intercept import _patch
from convinit_ext.intercept._drawn import Drawn
from convinit_ext.intercept._signatures import (
    BY_PLACE,
    CONSTANTS,
    FIXED_FUNCTIONS,
    INIT_FUNCTIONS,
    MATRIX_FUNCTIONS,
    OVERWRITES,
    WRONG_ARGUMENTS,
    Request,
)
from convinit_ext.intercept._tracker import Tracker
from convinit_ext.intercept._views import ParameterView, is_recorded, with_marks
from convinit_ext.keys import INT64_MIN, Key, KeyRow
from convinit_ext.sharding import (
    check_alone,
    check_not_slice,
    copy_whole_,
    is_dtensor,
    is_marked,
    is_placeholder,
    is_sharded,
    local_of,
    logical_shape,
    may_be_alias,
    owners,
)


class Fills(_patch.Handler):
    """The fills inside a block, from an entry to its exit."""

    def __init__(self, model: nn.Module | None, seed: int | None) -> None:
        super().__init__()
        self._generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
        if seed is None and model is not None:
            seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_(INT64_MIN, None))
        self._seed = seed or 0
        self.tracker = None if model is None else Tracker(model, self._seed)
        self._rows = [KeyRow(self._seed)]  # that are free: a signal handler may fill inside another fill
        self._warned: set[str] = set()
        self.drawn = Drawn(self.tracker, is_seeded=self.tracker is not None or self._generator is not None)

    def fill_method(
        self, read: Callable[..., Request], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Do what a method does; return None if PyTorch is to do it."""
        try:
            tensor, distribution, generator = read(*args, **kwargs)
        except WRONG_ARGUMENTS:  # PyTorch says better what is wrong with them
            return None
        if tensor.requires_grad and torch.is_grad_enabled():  # PyTorch refuses it, or records it
            return None
        if self._is_drawn_by_torch(tensor, stacklevel=6):
            return None
        view = self._view(tensor, generator)
        if view is not None:
            view.check_not_cut(tensor, by_place=True)
        return self._fill(tensor, view, distribution, generator)

    def change(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
        """Do what another method that writes does to a placeholder; return None if PyTorch is to do it.

        ValueError says that it would write nothing, or into a range that is not the slice that it looks like.
        """
        tensor, *rest = args
        if func in CONSTANTS and self.tracker is not None:
            self.tracker.check_not_lost(tensor)
        if not isinstance(tensor, Tensor) or (tensor.requires_grad and torch.is_grad_enabled()):
            return None
        if not is_placeholder(tensor):
            if func in OVERWRITES and self.tracker is not None:
                self.tracker.warn_if_in_vain(tensor, tensor.grad_fn if is_recorded(tensor) else None)
            if func in CONSTANTS or not tensor.numel():
                check_not_slice(tensor)
            return None
        check_alone(tensor, is_placed=False)
        value = 0.0 if func is Tensor.zero_ else rest[0] if rest else None
        if func in CONSTANTS and isinstance(value, int | float):
            return init.constant_(tensor, value)
        if func is Tensor.copy_ and isinstance(value, Tensor) and value.shape == logical_shape(tensor):
            copy_whole_(tensor, value)
            return tensor
        raise ValueError(
            f"it is a placeholder of DeepSpeed's ZeRO-3, of shape {list(logical_shape(tensor))} (ds_shape), "
            f"to which Tensor.{func.__name__} would write nothing; accepted are zero_(), fill_(number) and "
            "copy_(tensor of that shape), or all inside deepspeed.zero.GatheredParameters"
        )

    def answer(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """Do what a function of torch.nn.init does; return None if PyTorch is to do it."""
        with DisableTorchFunction():
            tensor = args[0]
            if not isinstance(tensor, Tensor):
                return None
            is_constant = name in FIXED_FUNCTIONS
            if _is_left_to_torch(tensor) if is_constant else self._is_drawn_by_torch(tensor, stacklevel=7):
                return None
            if tensor.__dict__.get("_is_hf_initialized"):  # as transformers' own functions
                self._warn_of_mark(name, tensor)
                return tensor
            if is_constant:
                return self._fill_fixed(name, *args)
            if name in MATRIX_FUNCTIONS:
                return self._fill_matrix(getattr(init, name), *args)
            view = self._view(tensor, args[-1])
            if view is not None:
                view.check_not_cut(tensor, name in BY_PLACE)
            try:
                distribution = INIT_FUNCTIONS[name](with_marks(tensor, view), *args[1:-1])
            except WRONG_ARGUMENTS:  # as above
                return None
            return self._fill(tensor, view, distribution, args[-1])

    def _warn_of_mark(self, function: str, tensor: Tensor) -> None:
        """Say once for each name, where PyTorch's function was called, that it did nothing."""
        view = None if self.tracker is None else self.tracker.view(tensor)
        named = f"a tensor of shape {tuple(tensor.shape)}" if view is None else repr(view.parameter.name)
        if named not in self._warned:
            self._warned.add(named)
            warnings.warn(
                f"torch.nn.init.{function} left {named} as it is: transformers marked it as loaded "
                "(_is_hf_initialized). To fill it inside intercept, set that attribute to False first",
                stacklevel=5,
            )

    def _is_drawn_by_torch(self, tensor: Tensor, stacklevel: int) -> bool:
        """Return whether PyTorch is to draw a tensor's values; note it where it can."""
        is_left = _is_left_to_torch(tensor)
        is_drawn = (
            is_left and _get_tracing_state() is None and (tensor.is_floating_point() or tensor.is_complex())
        )
        if is_drawn and (tensor.is_nested or tensor.numel() > 0):
            self.drawn.note(tensor, stacklevel=stacklevel)
        return is_left

    def _fill(
        self,
        tensor: Tensor,
        view: ParameterView | None,
        distribution: Distribution,
        generator: torch.Generator | None,
    ) -> Tensor | None:
        """Return the tensor, filled; None if it turns out to be one that PyTorch has to fill."""
        self.drawn.forget(tensor)
        try:
            if view is None:
                if not self._fill_temporary(generator, fill_, tensor, distribution):
                    self._fill_from_generator(tensor, distribution, generator)
                return tensor
            number, parameter = view.number(), view.parameter
            name = view.key_name(number)
            if view.box is None and is_sharded(parameter.tensor):
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
        if self.tracker is None or generator is not None:
            return None
        return self.tracker.view(tensor) or self.tracker.copied(tensor)

    def _take_row(self) -> KeyRow:
        if self._rows:
            return self._rows.pop()
        with _disable_current_modes(), torch.inference_mode(False):
            return KeyRow(self._seed)

    def _fill_temporary(
        self, generator: torch.Generator | None, fill: Callable[..., Tensor], *args: Any
    ) -> bool:
        """Fill a tensor that is no part of the model by the name of what the running code was called for.

        `args` come before a generator and a key. Returns whether there is such a name; otherwise nothing is
        done.
        """
        scope = None if self.tracker is None or generator is not None else self.tracker.scope()
        if self.tracker is None or not scope:
            return False
        number = self.tracker.num_temporaries[scope]
        with torch.no_grad():
            fill(*args, None, key=Key(self._seed, f"{scope}#temporary{number}"))
        self.tracker.num_temporaries[scope] += 1
        return True

    def _fill_from_generator(
        self, tensor: Tensor, distribution: Distribution, generator: torch.Generator | None
    ) -> None:
        is_quick = is_plain(tensor) and not may_be_alias(tensor)
        if generator is None and self._generator is not None and is_quick:
            row = self._take_row()
            words = row.words.random_(INT64_MIN, None, generator=self._generator)
            _fill_box(tensor, distribution, words, None)
            self._rows.append(row)
        else:
            with torch.no_grad():
                fill_(tensor, distribution, generator or self._generator, None)

    def _fill_fixed(self, name: str, tensor: Tensor, *args: Any) -> Tensor | None:
        """Do what a function that draws nothing does; return None if PyTorch is to do it."""
        function: Callable[..., Tensor] = getattr(init, name)
        is_constant = name not in ("eye_", "dirac_")
        if is_marked(tensor) or (is_dtensor(tensor) and not is_constant):
            return function(tensor, *args)
        if is_recorded(tensor) or is_dtensor(tensor):
            check_not_lost(tensor)
        if is_constant:
            return self.change(Tensor.fill_, (tensor, *args))
        view = self._view(tensor, None)
        if view is None:
            if owners(tensor):
                check_not_lost(tensor)
            return None
        view.check_not_cut(tensor)
        if view.box is None and is_marked(view.parameter.tensor):
            function(view.parameter.tensor, *args)
            return tensor
        return None

    def _fill_matrix(self, function: Callable[..., Tensor], tensor: Tensor, *args: Any) -> Tensor | None:
        """Do what orthogonal_ or sparse_ does. A slice is a matrix by itself, with a key of its own."""
        *given, generator = args
        self.drawn.forget(tensor)
        view = self._view(tensor, generator)
        if view is not None and view.box is not None and is_dtensor(tensor):
            view = None  # no name says which matrix it is: a process knows its own part of it alone
        try:
            if view is None:
                if not self._fill_temporary(generator, function, tensor, *given):
                    with torch.no_grad():
                        function(tensor, *given, generator or self._generator)
                return tensor
            view.check_not_cut(tensor)
            number, target = view.number(), tensor
            if view.box is None and is_sharded(view.parameter.tensor):
                target = view.parameter.tensor
            elif owners(tensor):  # which init would ask for its place
                target = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            with torch.no_grad():
                function(target, *given, None, key=Key(self._seed, view.key_name(number, tensor.shape)))
                if view.box is not None and target is not tensor:
                    tensor.copy_(target)
            view.count(number)
        except UnsupportedTensorError:
            return None
        return tensor


def _fill_box(tensor: Tensor, distribution: Distribution, words: Tensor, box: ops.Box | None) -> None:
    """Fill a whole parameter, or a box of one; past the dispatcher if it is small and nobody watches."""
    kind, params = distribution.kind, distribution.params
    is_small = tensor.nbytes <= SMALL_BYTES and tensor.is_cpu
    # Nothing about a plain one would be refused but elements that overlap.
    if is_small and is_plain(tensor, any_strides=True) and (box is not None or tensor.is_contiguous()):
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
        or tensor.layout is not torch.strided
        or tensor.is_meta
        or (tensor.numel() == 0 and not is_marked(tensor) and not owners(tensor))
        or tensor.is_neg()
        or tensor.is_nested
        or (type(tensor) not in PLAIN and isinstance(tensor, FakeTensor))
        or _are_functorch_transforms_active()
        or (_dispatch_modes() > 0 and _get_dispatch_mode(_TorchDispatchModeKey.PROXY) is not None)  # make_fx
    )
