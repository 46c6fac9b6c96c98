"""Layer keys: which random words are a parameter's own (value contract, sections 1 and 6).

A key comes from a seed and a parameter's name, or from a torch.Generator. Nothing here fills a tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._C import _len_torch_dispatch_stack as _num_dispatch_modes
from torch.compiler import is_compiling

CONTRACT_VERSION = 1

_PERSON = b"convinit-v1"
_PERSON_OF_GENERATOR = b"convinit-v1-gen"
_UINT64_END = 1 << 64
INT64_MIN = -(1 << 63)
_OFFSET_STEP = 4  # a CUDA generator's offset counts words; it must stay a multiple of a block of four
_CPU = torch.device("cpu")
DRAW_UNDER_CAPTURE = (
    "a key cannot be drawn while a CUDA graph is captured: every replay would write the same values again; "
    "say whose values they are with key=convinit_ext.Key(seed, name)"
)

# The attributes of torch.compile, FSDP, activation checkpointing and Lightning Fabric that hold a model.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_DDP_WRAPPER = "module"


def canonical_name(name: str) -> str:
    """A parameter's name without what torch.compile, FSDP, checkpointing, DDP and Fabric put into it.

    Args:
        name: as Module.named_parameters() gives it. `module` is a wrapper only where it leads: elsewhere it
            is somebody's attribute.

    Raises:
        TypeError: not a string.
        ValueError: nothing is left of it.

    >>> canonical_name("module._orig_mod.layer1.0.conv1.weight")
    'layer1.0.conv1.weight'
    """
    if not isinstance(name, str):
        raise TypeError(f"a parameter's name must be a str, not {type(name).__name__}")
    if name and not (name.startswith(_DDP_WRAPPER) or "_orig_mod" in name or "_module" in name):
        return name  # no wrapper is in it: most names
    segments = [segment for segment in name.split(".") if segment not in WRAPPERS]
    num_leading = 0
    while num_leading < len(segments) and segments[num_leading] == _DDP_WRAPPER:
        num_leading += 1
    canonical = ".".join(segments[num_leading:])
    if not canonical:
        raise ValueError(f"a key needs a parameter's name, and {name!r} leaves none")
    return canonical


class _Words:
    """The slot for a key's words, which are no field: a graph that makes the key passes its fields alone.

    They are signed, as a compiler has its numbers when they change from call to call.
    """

    __slots__ = ("signed_words",)
    signed_words: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Key(_Words):
    """The random words of one parameter of one model: a function of a seed and of the parameter's name alone.

    Args:
        seed: integer in [-2**63, 2**64), what torch.manual_seed accepts.
        name: fully qualified name of the parameter; made canonical.

    Raises:
        TypeError: a seed that is not an integer, a name that is not a string.
        ValueError: a seed out of range, an empty name, half a surrogate pair in it.

    Attributes:
        words: (key, stream), two unsigned 64-bit integers.
        signed_words: the same in two's complement.

    Source: value contract, section 1 (BLAKE2b of seed and name).

    >>> Key(0, "module.conv.weight") == Key(name="conv.weight")
    True
    """

    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        seed = checked_seed(self.seed)
        name = canonical_name(self.name)
        try:
            words = _signed_words_of(seed, name)
        except UnicodeEncodeError:
            raise ValueError(f"name must be text that UTF-8 can hold, not {name!r}") from None
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "signed_words", words)

    @property
    def words(self) -> tuple[int, int]:
        key, stream = self.signed_words
        return key % _UINT64_END, stream % _UINT64_END

    def __reduce__(self) -> tuple[type[Key], tuple[int, str]]:
        return Key, (self.seed, self.name)

    def tensor(self) -> torch.Tensor:
        """The words as the fill engine takes them: int64 [1, 2] on the CPU, in two's complement."""
        return torch.tensor([self.signed_words], dtype=torch.int64, device=_CPU)


def of_names(seed: int, names: Sequence[str]) -> torch.Tensor:
    """Return the words of one seed's keys for many canonical names, one row each, as Key.tensor has them.

    >>> torch.equal(of_names(7, ["a", "b"])[1:], Key(7, "b").tensor())
    True
    """
    prefix = _uint64_bytes(checked_seed(seed))
    blake2b = hashlib.blake2b
    digests = [blake2b(prefix + name.encode(), digest_size=16, person=_PERSON).digest() for name in names]
    words = np.frombuffer(b"".join(digests), dtype="<i8")
    return torch.from_numpy(words.astype(np.int64)).view(-1, 2)


class KeyRow:
    """Keys of one seed, one after the other in the same place: nothing is allocated for the next one.

    >>> torch.equal(KeyRow(7).of("a"), Key(7, "a").tensor())
    True
    """

    def __init__(self, seed: int) -> None:
        self._begun = hashlib.blake2b(_uint64_bytes(checked_seed(seed)), digest_size=16, person=_PERSON)
        memory = np.empty((1, 2), dtype=np.int64)
        self.words = torch.from_numpy(memory)  # memory of its own inside a transform of torch.func too
        self._memory = memory.data.cast("B")

    def of(self, name: str) -> torch.Tensor:
        """The words of a canonical name: int64 [1, 2], good until the next call."""
        digest = self._begun.copy()
        digest.update(name.encode())
        self._memory[:] = digest.digest()  # lowest byte first, as the machine has its numbers
        return self.words


def draw(generator: torch.Generator | None = None, tensor: torch.Tensor | None = None) -> torch.Tensor:
    """Return the next key of a generator: int64 [1, 2] on the CPU. It advances, and nothing synchronises.

    It is PyTorch's default CPU generator if None, whatever device is to be filled; a fake tensor has a fake
    key. Value contract, section 6; the errors are those of check_generator.

    >>> draw(torch.Generator().manual_seed(0)).shape
    torch.Size([1, 2])
    """
    if generator is None and (is_compiling() or _is_recorded()):
        order = _order_of_draws if is_compiling() else torch.zeros((), dtype=torch.int64, device=_CPU)
        drawn: torch.Tensor = _draw_in_graph(order)
        return drawn
    words: torch.Tensor = (torch.empty if tensor is None else tensor.new_empty)(
        1, 2, dtype=torch.int64, device=_CPU
    )
    if generator is not None:
        check_generator(generator, "cuda" if tensor is None else tensor.device.type)
        if generator.device.type == "cuda":
            return _draw_from_cuda(generator)
    return words.random_(INT64_MIN, None, generator=generator)


def _is_recorded() -> bool:
    """Return whether make_fx records operations: of random_ with bounds it makes source that is no Python."""
    return _num_dispatch_modes() > 0 and _get_dispatch_mode(_TorchDispatchModeKey.PROXY) is not None


def check_generator(generator: torch.Generator, device_type: str) -> None:
    """Raise TypeError for no generator, RuntimeError for one neither of the CPU nor of the device type."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, not {type(generator).__name__}")
    if generator.device.type not in ("cpu", device_type):
        raise RuntimeError(
            f"Expected a '{device_type}' device type for generator but found '{generator.device.type}'"
        )


def check_not_capturing(device: torch.device, message: str) -> None:
    """Raise RuntimeError where work for this device goes into a CUDA graph instead of being done."""
    if device.type != "cuda" or not cuda_is_in_use():
        return
    with (
        contextlib.nullcontext() if device.index == torch.cuda.current_device() else torch.cuda.device(device)
    ):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(message)


def cuda_is_in_use() -> bool:
    """Return whether this process has called CUDA: asking for more would start it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # PyTorch's


# torch.compile knows no Tensor.random_, so in a graph the draw is an op. Draws must keep their order: each
# says that it writes to this tensor, and compilers keep writes to one tensor in order.
_order_of_draws = torch.zeros((), dtype=torch.int64, device=_CPU)


@torch.library.custom_op(
    "convinit_ext::draw", mutates_args=("order",), tags=(torch.Tag.nondeterministic_seeded,)
)
def _draw_in_graph(order: torch.Tensor) -> torch.Tensor:
    if cuda_is_in_use():
        check_not_capturing(torch.device("cuda", torch.cuda.current_device()), DRAW_UNDER_CAPTURE)
    return torch.empty(1, 2, dtype=torch.int64, device=_CPU).random_(INT64_MIN, None)


@_draw_in_graph.register_fake
def _(order: torch.Tensor) -> torch.Tensor:
    return torch.empty(1, 2, dtype=torch.int64, device=_CPU)


def _draw_from_cuda(generator: torch.Generator) -> torch.Tensor:
    """A key from the generator's seed and offset. The host knows both: nothing waits for the GPU."""
    seed, offset = generator.initial_seed(), generator.get_offset()
    words = _halves(_uint64_bytes(seed) + _uint64_bytes(offset), _PERSON_OF_GENERATOR)
    generator.set_offset(offset + _OFFSET_STEP)
    return torch.tensor([words], dtype=torch.int64, device=_CPU)


def checked_seed(seed: int) -> int:
    """Return the seed as a plain int; the errors are Key's."""
    try:
        if isinstance(seed, bool):
            raise TypeError
        seed = operator.index(seed)
    except (TypeError, ValueError):  # the last of a tensor of several elements
        raise TypeError(f"seed must be an int, not {type(seed).__name__}; write Key(seed, name)") from None
    if not INT64_MIN <= seed < _UINT64_END:
        raise ValueError(f"seed must be in [-2**63, 2**64), but found {seed}")
    return seed


def _signed_words_of(seed: int, name: str) -> tuple[int, int]:
    return _halves(_uint64_bytes(seed) + name.encode(), _PERSON)


# No compiler traces a hash: a key made in a graph is a constant of it. (torch.compiler.assume_constant_result
# would mark it so, but imports the compiler.)
_signed_words_of._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a mark for Dynamo


def _halves(message: bytes, person: bytes) -> tuple[int, int]:
    """Return a hash as two words in two's complement."""
    digest = hashlib.blake2b(message, digest_size=16, person=person).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(
        digest[8:], "little", signed=True
    )


def _uint64_bytes(number: int) -> bytes:
    return (number % _UINT64_END).to_bytes(8, "little")
