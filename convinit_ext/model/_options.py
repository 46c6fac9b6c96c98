"""What the callers of a plan ask for, checked: one dataclass for filling, saving and verifying."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from convinit_ext._engine import HAS_CUDA, SUPPORTED_DTYPES
from convinit_ext.keys import CONTRACT_VERSION, checked_seed
from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.model._names import Names
from convinit_ext.model._selection import Selectors
from convinit_ext.recipes import FANS, Fan, Recipe, Rule, as_recipe
from convinit_ext.sharding import check_same

_FREQUENCIES = re.compile(r"(^|\.)(original_)?inv_freq$")  # of rotary embeddings
# What transformers' models keep in float32, as parts of names; the first of them in float16 alone.
_KEPT = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+|, file \"[^\"]*\"")  # of an object in memory, or of its source

Frozen: TypeAlias = Literal["keep", "draw"] | None
AnyRecipe: TypeAlias = "str | PathLike[str] | Recipe | Sequence[Rule]"


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """How to plan a model; the first nine are those of init_model_, and so are the errors.

    A plan for `reading` is for a look at the model, which then need not be one that can be filled: it may
    hold gathered parameters or inference tensors. Its buffers all have rows, also those that keep their
    values, and meta ones that nobody can rebuild. `persistent` leaves out buffers that a state dict has not.
    """

    recipe: Any = "torch"
    dtype: torch.dtype | None = None
    fan: Fan = "true"
    only: Selectors = None
    skip: Selectors = None
    names: Names | None = None
    device: Any = None
    frozen: Frozen = None
    like: Any = None
    reading: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.fan, str) and self.fan in FANS):
            raise ValueError(f"fan must be one of {list(FANS)}, not {self.fan!r}")
        if not (self.frozen is None or (isinstance(self.frozen, str) and self.frozen in ("keep", "draw"))):
            raise ValueError(f"frozen must be 'keep', 'draw' or None, not {self.frozen!r}")
        if self.device is not None:
            object.__setattr__(self, "device", checked_device(self.device))
        object.__setattr__(self, "recipe", as_recipe(self.recipe))
        if not isinstance(self.dtype, torch.dtype | None):
            raise TypeError(f"dtype must be a torch.dtype, not {type(self.dtype).__name__}")
        if self.dtype is not None and self.dtype not in SUPPORTED_DTYPES:
            accepted = ", ".join(str(each).removeprefix("torch.") for each in SUPPORTED_DTYPES)
            raise ValueError(f"dtype {self.dtype} cannot be filled; accepted are {accepted}")

    def dtype_of(self, held: NamedTensor) -> torch.dtype:
        """Return the dtype of a tensor afterwards; its own where none is asked for, or it is no float."""
        own, dtype = held.tensor.dtype, self.dtype
        if dtype is None or not own.is_floating_point:
            return own
        is_half = dtype in (torch.float16, torch.bfloat16)
        return own if is_half and own == torch.float32 and _is_kept(held, dtype) else dtype

    @property
    def facts(self) -> dict[str, str]:
        """Return what decides a model's values beside its seed, as short texts that processes can compare."""
        shown = {name: str(getattr(self, name)) for name in ("fan", "dtype", "frozen")}
        digests = {"rules of the recipe": _digest(self.recipe), "names": _digest(self.names)}
        version = {"version of the value contract": str(CONTRACT_VERSION)}
        return {"recipe": self.recipe.name, **shown, **digests, **version}


def _is_kept(held: NamedTensor, dtype: torch.dtype) -> bool:
    """Whether a tensor stays float32 in half precision.

    Source: PreTrainedModel._get_dtype_plan of transformers.
    """
    if _FREQUENCIES.search(held.name):
        return True
    lists = _KEPT if dtype == torch.float16 else _KEPT[1:]
    module: Any
    for module in (*held.node.parents, held.node.module):
        for name in lists:
            parts = module.__dict__.get(name) or getattr(type(module), name, None) or ()
            if any(re.search(part.replace("*", ".*"), held.name) for part in parts):
                return True
    return False


def checked_on_all_ranks(seed: int, options: Callable[[], Options]) -> Options:
    """Return the options that are made here; ValueError where they, or the seed, are not every process's."""
    made: list[Options] = []

    def facts() -> dict[str, str]:
        found = {"seed": str(checked_seed(seed))}
        made.append(options())
        return {**found, **made[0].facts}

    check_same(facts)
    return made[0]


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(_plain(value)).encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as texts and lists that are equal in every process where it means the same."""
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return type(value).__qualname__, [(name, _plain(each)) for name, each in named]
    return _source(value)


def _source(value: Any) -> Any:
    """Return what a type or function is called, with a function's code; of anything else the text."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    code = getattr(value, "__code__", None)
    if code is None:
        return _ADDRESS.sub("", repr(value))
    constants = [_ADDRESS.sub("", repr(each)) for each in code.co_consts if not isinstance(each, frozenset)]
    cells = (cell.cell_contents for cell in value.__closure__ or ())
    around = [each for each in cells if isinstance(each, int | float | str)]
    return value.__module__, value.__qualname__, code.co_code.hex(), code.co_names, constants, around


def checked_device(device: torch.device | str | None) -> torch.device:
    """Return where new memory goes; raise ValueError if it cannot be filled there."""
    try:
        checked = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device {device!r}: {error}") from error
    if checked.type == "cuda":
        _check_cuda(checked)
    elif checked.type != "cpu":
        raise ValueError(f"device {str(checked)!r} cannot be filled; accepted are cpu and cuda")
    return checked


def _check_cuda(device: torch.device) -> None:
    if not HAS_CUDA:
        raise ValueError(
            f"device {str(device)!r} cannot be filled: this build has no CUDA; "
            "build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        )
    num_devices = torch.cuda.device_count()
    if (device.index or 0) >= num_devices:
        raise ValueError(f"device {str(device)!r}: PyTorch sees {num_devices} CUDA devices")
