"""Whether a model's parameters can be filled where they are, or read; said before anything is written."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from convinit_ext._engine import (
    UnsupportedTensorError,
    are_plain,
    check_dtype,
    check_not_transformed,
    check_own_operations,
    check_tensor,
    in_fake_mode,
    lines,
    listed,
)
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._options import Options
from convinit_ext.sharding import (
    FsdpState,
    check_foreign,
    check_name,
    fsdp_state,
    is_marked,
    is_sharded,
    keeps_dtype,
    local_of,
    parts,
)


def check_parameters(held: Sequence[NamedTensor], options: Options) -> None:
    """Check that every parameter is a plain floating-point tensor on a device that can be filled, or read.

    Notes of each whether it `is_plain`. A complex one may be filled with given values, as its rule knows.

    Raises:
        UnsupportedTensorError, RuntimeError, TypeError, ValueError: some are not; it is said of the first,
            and all are named.
    """
    if options.reading:
        check_real(held, "verify")
    lost: list[NamedTensor] = []
    reason: Exception | None = None
    for each, plain in zip(held, are_plain(each.tensor for each in held), strict=True):
        tensor = each.tensor
        if plain:
            each.is_plain = True
            continue
        try:
            _check(tensor, options)
            if tensor.is_meta and not (options.reading or options.persistent):
                _check_not_offloaded((*each.node.parents, each.node.module))
        except (RuntimeError, TypeError, ValueError) as error:  # UnsupportedTensorError is the first two
            lost.append(each)
            reason = reason or error
    if reason is not None:
        names = listed(repr(each.name) for each in lost)
        leave = f"[{names}] leaves them as they are" if len(lost) > 1 else f"{names} leaves it as it is"
        raise type(reason)(f"parameter {lost[0].path!r}: {reason}; skip={leave}") from reason


def check_real(held: Iterable[NamedTensor], do: str = "draw") -> None:
    """Raise UnsupportedTensorError, which names all, where parameters are complex."""
    lost = [each for each in held if each.tensor.is_complex()]
    if not lost:
        return
    described = [f"{each.path} {list(each.tensor.shape)} of {each.tensor.dtype}" for each in lost]
    preset = f"give each its values by a rule, Rule(Preset(tensor), name={glob.escape(lost[0].name)!r}), or "
    raise UnsupportedTensorError(
        f"cannot {do} {len(lost)} parameter{'s' * (len(lost) > 1)} of complex numbers:{lines(described)}\n"
        f"Accepted are real ones; {preset * (do == 'draw')}leave them as they are: "
        f"skip=[{listed(repr(each.name) for each in lost)}]"
    )


def _check_not_offloaded(modules: Iterable[nn.Module]) -> None:
    """Raise ValueError where accelerate's hooks would bring old values back before each forward pass."""
    for module in modules:
        hook = vars(module).get("_hf_hook")
        hooks = [] if hook is None else getattr(hook, "hooks", [hook])
        if any(getattr(each, "offload", True) for each in hooks):
            raise ValueError(
                "accelerate has offloaded it, and its hook would bring the old values back; initialise the "
                "model before cpu_offload, disk_offload or dispatch_model, or call "
                "accelerate.hooks.remove_hook_from_submodules(model) first"
            )


def _check(tensor: Tensor, options: Options) -> None:
    reading, is_filled = options.reading, not (options.reading or options.persistent)
    if is_marked(tensor):
        check_foreign(tensor, is_filled)
        if is_filled and options.names is None:
            check_name(tensor)
        if is_filled and options.dtype not in (None, tensor.dtype) and keeps_dtype(tensor):
            raise ValueError("its memory is a range of a larger one, which keeps its dtype; leave dtype= out")
    if is_sharded(tensor):
        parts(tensor)  # raises what is wrong with its placements
        tensor = local_of(tensor)
    do = "verify" if reading else "fill"
    check_own_operations(tensor, do)
    check_not_transformed(tensor, do)
    if reading and (tensor.is_meta or isinstance(tensor, FakeTensor)):  # a file may have the values
        check_dtype(tensor.dtype, do)
    else:
        check_tensor(tensor, "write" if tensor.is_complex() else do)
    if reading:
        return
    if tensor.is_neg():
        raise UnsupportedTensorError(
            "cannot fill a view that shows its memory negated (is_neg()); accepted is its resolve_neg()"
        )
    if isinstance(tensor, FakeTensor) and tensor.fake_mode not in _get_current_dispatch_mode_stack():
        raise UnsupportedTensorError("cannot fill a fake tensor outside its FakeTensorMode")


def check_not_faked(held: Iterable[NamedTensor]) -> None:
    """Raise UnsupportedTensorError for memory inside FakeTensorMode, where a fill of it does nothing."""
    if not in_fake_mode():
        return
    for each in held:
        if not isinstance(local_of(each.tensor), FakeTensor):
            raise UnsupportedTensorError(
                f"{each.path!r}: cannot fill it inside FakeTensorMode; accepted there are fake tensors alone"
            )


def check_modules(nodes: Iterable[NamedModule], dtype: torch.dtype | None) -> None:
    """Raise ValueError for a module whose values FSDP2 would put back: gathered, or in another dtype."""
    others: set[type] = set()  # most types: FSDP2 makes types of its own
    for node in nodes:
        kind: type = type(node.module)
        if kind in others:
            continue
        state = fsdp_state(node.module)
        if state is None:
            others.add(kind)
        if state is FsdpState.GATHERED:
            raise ValueError(
                f"module {node.path!r} holds gathered parameters, as after a forward pass, and FSDP2 would "
                "drop what is filled; call its reshard() first"
            )
        floats = (each for each in node.module.parameters() if each.is_floating_point())
        if state is FsdpState.RUN and any(dtype not in (None, each.dtype) for each in floats):
            raise ValueError(
                f"module {node.path!r} has run under FSDP2, which keeps its dtypes; pass dtype= before the "
                "first forward pass"
            )


def check_reducers(nodes: Iterable[NamedModule], moved: Iterable[Tensor]) -> None:
    """Raise ValueError where parameters get new memory inside DDP, which has its hooks on the old."""
    wrappers = [node for node in nodes if isinstance(node.module, DistributedDataParallel)]
    ids = set(map(id, moved)) if wrappers else ()
    for node in wrappers:
        if any(id(each) in ids and each.requires_grad for each in node.module.parameters()):
            raise ValueError(
                f"module {node.path!r} is a DistributedDataParallel, which would not average gradients of "
                "parameters in new memory, by dtype= or from the meta device; initialise the model before it "
                "is wrapped"
            )
