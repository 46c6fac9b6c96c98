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
from torch import nn
from torch._C import DisableTorchFunction
from torch._C import _get_function_stack_at as _mode_at
from torch._C import _len_torch_function_stack as _num_modes
from torch._C import _pop_torch_function_stack as _pop_mode
from torch._C import _push_on_torch_function_stack as _push_mode
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from convinit_ext._engine import listed
from convinit_ext.intercept import _patch
from convinit_ext.intercept._fills import Fills
from convinit_ext.intercept._signatures import CHANGES, DRAWS, METHODS, SHOWS
from convinit_ext.keys import checked_seed
from convinit_ext.sharding import is_sharded, place


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
      brackets follows the name;
    - other tensors, such as temporaries, are known by what the running code was called for: the innermost
      function with a parameter or module of the model, not the model itself, as an argument. The n-th fill
      for it has Key(seed, f"{name}#temporary{n}"), from 0.

    Tied parameters count as one, under the first name. Tensors without such a name, and all if there is no
    model, take their keys from a generator: one of the block's own if there is a seed, else PyTorch's default
    CPU generator. A generator= in a call is what that call's key is drawn from, whatever its tensor.

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
        self._entries: list[Fills] = []  # that are open; nothing else holds them

    def __enter__(self) -> None:
        with DisableTorchFunction(), _disable_current_modes(), torch.inference_mode(False):
            if self._model is not None and self._seed is None:
                _check_ranks_agree(self._model)
            fills = Fills(self._model, self._seed)
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
            if error[0] is None and isinstance(fills, Fills):
                with DisableTorchFunction():
                    fills.drawn.finish()
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
    """Warn of a seed that each of several processes draws, or refuse it for a sharded model."""
    num_ranks = place()[1]
    if num_ranks == 1:
        return
    why = (
        f"intercept(model) without seed= draws a seed on each of the {num_ranks} ranks from its own default "
        "generator"
    )
    names = [repr(name) for name, parameter in model.named_parameters() if is_sharded(parameter)]
    if names:
        raise ValueError(
            f"{why}, so that the ranks may fill their parts of {listed(names)} with values of different "
            "seeds: pass the same seed= on all ranks"
        )
    warnings.warn(
        f"{why}, so that replicas may differ: pass the same seed= on all ranks, or one for each rank if they "
        "are to differ",
        stacklevel=3,
    )


class _Mode(TorchFunctionMode):
    """Takes the methods for the innermost block of the task that calls them, whichever block pushed it."""

    def __init__(self, fills: Fills) -> None:
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
        fills = None if is_compiling() else _patch.innermost()
        if not isinstance(fills, Fills):
            return func(*args, **kwargs)
        read = METHODS.get(func)
        if read is not None or func in CHANGES:
            with DisableTorchFunction():
                done = fills.change(func, args) if read is None else fills.fill_method(read, args, kwargs)
            if done is not None:
                return done
        result = func(*args, **kwargs)
        if func == SHOWS and fills.tracker is not None:
            with DisableTorchFunction():
                fills.tracker.note_data(args[0], result)
        if read is None and (fills.drawn or func in DRAWS):
            with DisableTorchFunction():
                fills.drawn.follow(func, args, kwargs, result)
        return result


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
