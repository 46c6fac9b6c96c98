"""intercept: a model's own init code, run on this library's kernels.

Functions of torch.nn.init are answered (announce.py), the tensors' own methods seen by a TorchFunctionMode,
both in one thread. Which parameter is meant, whose.py finds. What is not filled here, PyTorch fills.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
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
    is_surely_writable,
    ops,
)
from convinit_ext.distributions import Distribution
from convinit_ext.init import fill_
from convinit_ext.intercept import _patch as announce
from convinit_ext.intercept._owners import Owners
from convinit_ext.intercept._signatures import INIT_FUNCTIONS, METHODS, Asked
from convinit_ext.intercept._views import Owned
from convinit_ext.keys import INT64_MIN, Key, KeyRow, checked_seed
from convinit_ext.sharding import is_dtensor, local_of, parts

_PROXY = _TorchDispatchModeKey.PROXY  # of make_fx
_MATRIX_FUNCTIONS = ("orthogonal_", "sparse_")
_DIAGONAL_FUNCTIONS = ("eye_", "dirac_")


def intercept(model: nn.Module | None = None, seed: int | None = None) -> AbstractContextManager[None]:
    """Run the in-place random fills of PyTorch inside the block on this library's kernels.

    Taken are Tensor.normal_, Tensor.uniform_ and all of torch.nn.init, however they are called and wherever a
    reference to them was taken, in the thread that entered; not in compiled or traced code, and not other
    random operations. A tensor that this library does not fill (integer, complex, sparse, meta, fake, ...) is
    filled by PyTorch. A tensor marked `_is_hf_initialized` is left as it is by torch.nn.init, as in
    transformers.

    With a model, the values of each of its parameters and buffers depend on (seed, name, number of the fill):

    - the first fill in the block has Key(seed, name), the one after n others Key(seed, f"{name}#{n}");
    - a view or slice gets the values that its elements have in a fill of the whole, so that slices can be
      filled in any order. Its number is that of the fills of the whole so far, plus those of the same slice
      since then;
    - a view whose elements no box of the whole describes (another dtype; one dimension over several of a
      parameter that is not contiguous) has a key of its own, and so do orthogonal_ and sparse_ of a view: its
      place in brackets follows the name.

    Tied parameters count as one, under the first name. Other tensors, and all if there is no model, take
    their keys from a generator: one of the block's own if there is a seed, else PyTorch's default CPU
    generator. A generator= in a call is what that call's key is drawn from, whatever its tensor.

    Args:
        model: whose parameters have names; one that moves or gets memory inside the block is found again.
        seed: in [-2**63, 2**64). None draws one for a model from PyTorch's default CPU generator.

    Returns:
        A context manager; blocks may be nested, and the inner one counts.

    Raises:
        TypeError: a model that is not one module, a seed that is not an integer.
        ValueError: a seed out of range, two parameters that share a name.

    >>> from convinit_ext import Key, init, intercept
    >>> layer = nn.Linear(8, 4)
    >>> with intercept(layer, seed=0):
    ...     w = nn.init.kaiming_normal_(layer.weight)
    >>> torch.equal(w, init.kaiming_normal_(torch.empty(4, 8), key=Key(0, "weight")))
    True
    """
    if isinstance(seed, nn.Module):
        raise TypeError("intercept takes one model; for two, put them into one module or nest the blocks")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"intercept takes one model, an nn.Module, not a {type(model).__name__}; "
            "for several, put them into one module or nest the blocks"
        )
    if seed is not None:
        seed = checked_seed(seed)
    return _Block(model, seed)


class _Block(AbstractContextManager[None]):
    """Each entry starts anew: counts, the names, the generator."""

    def __init__(self, model: nn.Module | None, seed: int | None) -> None:
        self._model = model
        self._seed = seed

    def __enter__(self) -> None:
        with DisableTorchFunction(), _disable_current_modes(), torch.inference_mode(False):
            fills = _Fills(self._model, self._seed)
        announce.listen(fills.answer)
        _push_mode(fills)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _pop_mode()
        announce.stop()


class _Fills(TorchFunctionMode):
    """The fills of one block in one thread."""

    def __init__(self, model: nn.Module | None, seed: int | None) -> None:
        super().__init__()
        self._generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
        self._seed = _drawn_seed() if seed is None and model is not None else seed or 0
        self._owners = None if model is None else Owners(model, self._seed)
        self._row = KeyRow(self._seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The methods. What compilers trace is PyTorch's."""
        kwargs = kwargs or {}
        read = METHODS.get(func)
        if read is None or is_compiling():
            return func(*args, **kwargs)
        with DisableTorchFunction():
            filled = self._fill_method(read, args, kwargs)
        return func(*args, **kwargs) if filled is None else filled

    def _fill_method(
        self, read: Callable[..., Asked], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        try:
            tensor, distribution, generator = read(*args, **kwargs)
        except Exception:  # PyTorch says better what is wrong with the arguments
            return None
        if _is_left_to_torch(tensor):
            return None
        if tensor.requires_grad and torch.is_grad_enabled():  # PyTorch refuses it, or records it
            return None
        return tensor if self._fill(tensor, distribution, generator) else None

    def answer(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """A function of torch.nn.init with all its arguments; None if PyTorch is to do it."""
        with DisableTorchFunction():
            tensor: Tensor = args[0]
            if not isinstance(tensor, Tensor) or _is_left_to_torch(tensor):
                return None
            if tensor.__dict__.get("_is_hf_initialized"):  # as transformers' own functions
                return tensor
            if name in _DIAGONAL_FUNCTIONS:  # nothing is drawn: PyTorch's are right but for DTensors
                function: Callable[..., Tensor] = getattr(init, name)
                return function(*args) if is_dtensor(tensor) else None
            if name in _MATRIX_FUNCTIONS:
                return self._fill_matrix(getattr(init, name), args)
            try:
                asked = INIT_FUNCTIONS[name](*args)
            except Exception:  # as above
                return None
            return tensor if self._fill(*asked) else None

    def _fill(self, tensor: Tensor, distribution: Distribution, generator: torch.Generator | None) -> bool:
        """Fill it, unless it turns out to be one that PyTorch has to fill."""
        owned = self._owned(tensor, generator)
        try:
            if owned is None:
                self._fill_from_generator(tensor, distribution, generator)
            else:
                self._fill_owned(tensor, distribution, owned)
        except UnsupportedTensorError:
            return False
        return True

    def _fill_owned(self, tensor: Tensor, distribution: Distribution, owned: Owned) -> None:
        number = owned.number()
        if owned.is_dtensor:
            with torch.no_grad():
                fill_(owned.named.tensor, distribution, None, Key(self._seed, owned.key_name(number)))
        elif owned.is_scattered:
            with torch.no_grad():
                _fill_scattered(tensor, owned.named.tensor, distribution, self._words_of(owned, number))
        elif owned.box is None:
            _fill_whole(tensor, distribution, self._words_of(owned, number))
        else:
            _fill_part(tensor, distribution, self._words_of(owned, number), owned.box)
        owned.count(number)

    def _words_of(self, owned: Owned, number: int) -> Tensor:
        """The key's words, good until the next call."""
        name = owned.key_name(number)
        return owned.named.words if name is owned.named.name else self._row.of(name)

    def _fill_from_generator(
        self, tensor: Tensor, distribution: Distribution, generator: torch.Generator | None
    ) -> None:
        if generator is None and self._generator is not None and is_surely_writable(tensor):
            words = self._row.words.random_(INT64_MIN, None, generator=self._generator)
            _fill_whole(tensor, distribution, words)
        else:
            with torch.no_grad():
                fill_(tensor, distribution, generator or self._generator, None)

    def _owned(self, tensor: Tensor, generator: torch.Generator | None) -> Owned | None:
        if self._owners is None or generator is not None:
            return None
        return self._owners.owned(tensor)

    def _fill_matrix(self, function: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor | None:
        """orthogonal_ or sparse_, which draw more than the tensor's values."""
        tensor: Tensor = args[0]
        *given, generator = args[1:]
        owned = self._owned(tensor, generator)
        if owned is not None and not owned.is_dtensor and (owned.is_scattered or is_dtensor(tensor)):
            owned = None  # no name says which matrix it is: a process knows its own part of it alone
        target = owned.named.tensor if owned is not None and owned.is_dtensor else tensor
        number = 0 if owned is None else owned.number()
        key = None if owned is None else Key(self._seed, owned.key_name(number, alone=True))
        if key is None and generator is None:
            generator = self._generator
        try:
            with torch.no_grad():
                function(target, *given, generator, key=key)
        except UnsupportedTensorError:
            return None
        if owned is not None:
            owned.count(number)
        return tensor


def _fill_whole(tensor: Tensor, distribution: Distribution, words: Tensor) -> None:
    kind, params = distribution.kind, distribution.params
    if _is_quick(tensor) and tensor.is_contiguous():
        ops.fill_small_(tensor, words.data_ptr(), kind, params)
    else:
        with torch.no_grad():  # autograd has rules for views such as chunk's, gradient or not
            ops.fill_one_(tensor, words, kind, params)


def _fill_part(tensor: Tensor, distribution: Distribution, words: Tensor, box: ops.Box) -> None:
    """A part of a parameter, or of what this process has of a DTensor."""
    kind, params = distribution.kind, distribution.params
    if _is_quick(tensor):
        ops.fill_small_part_(tensor, words.data_ptr(), kind, params, box)
        return
    memory = local_of(tensor)
    with torch.no_grad():
        ops.fill_part_(memory, words, kind, params, box)
    if memory is not tensor:
        ops.increment_version(tensor)


def _is_quick(tensor: Tensor) -> bool:
    """Whether one that is not left to PyTorch is small, and may be filled past the dispatcher: nobody
    watches, and nothing about it would be refused but elements that overlap.
    """
    return (
        tensor.numel() <= SMALL
        and type(tensor) in PLAIN
        and tensor.is_cpu
        and not (tensor.is_nested or tensor.is_inference() or _dispatch_modes())
    )


def _fill_scattered(tensor: Tensor, whole: Tensor, distribution: Distribution, words: Tensor) -> None:
    """A part of a DTensor's local tensor that no box describes: the local tensor's values are made beside it,
    and those of the part copied.
    """
    memory, local = local_of(tensor), local_of(whole)
    beside = torch.empty_strided(local.shape, local.stride(), dtype=local.dtype, device=local.device)

    def seen(view: Tensor) -> Tensor:
        offset = int(view.storage_offset() - local.storage_offset())
        return beside.as_strided(view.shape, view.stride(), offset)

    for part in parts(whole):
        box = part.box(whole.shape)
        ops.fill_part_(seen(part.tensor), words, distribution.kind, distribution.params, box)
    memory.copy_(seen(memory))
    if memory is not tensor:
        ops.increment_version(tensor)


def _drawn_seed() -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(INT64_MIN, None))


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
