"""Calls every op of the extension with arguments of all kinds, most of them wrong.

Prints the number of each call before it, so that the last one is the one that ended the process, and at the
end how many calls each op accepted. After each call the memory around its tensors has to be as it was.
"""

import faulthandler
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

import convinit_ext  # noqa: F401  # makes the ops

DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
FILLED = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2]
LARGE = [2**31, 2**40, 2**60, 2**61, 2**62, 2**63 - 2**34 - 1, 2**63 - 1, 2**63, -1, -(2**63)]
FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    448.0,
    7e4,
    1e38,
    1e300,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
]
NUM_PARAMS = 4
MARGIN = 64  # bytes of others before and behind a tensor


class Call:
    """The arguments of one call, drawn from its number alone."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed} {number}")
        self._rows = self._random.choice([0, 1, 1, 2, 3])
        self._num_dims = 0  # of its tensors, all together
        self._watched: list[tuple[Tensor, Tensor, Tensor]] = []  # memory, what it was, what is a tensor's own

    def arguments(self, schema: torch.FunctionSchema) -> list[object]:
        found = [self._argument(argument.name, str(argument.type)) for argument in schema.arguments]
        return found if self._often() else found[: self._random.randrange(len(found) + 1)]

    def check_memory_of_others(self) -> None:
        for memory, before, own in self._watched:
            assert bool(((memory == before) | own).all()), "memory beside a tensor was written to"

    def _argument(self, name: str, kind: str) -> object:
        by_name: dict[str, Callable[[], object]] = {
            "tensors": lambda: [self._tensor() for _ in range(self._rows)],
            "keys": lambda: self._keys(self._rows),
            "key": lambda: self._keys(1),
            "kinds": lambda: self._integers(self._rows, 4),
            "kind": lambda: self._random.choice([1, 2, 3, self._integer()]),
            "params": lambda: [self._number() for _ in range(NUM_PARAMS * self._rows + (not self._often()))],
            "box_starts": lambda: self._integers(self._rows),
            "box_strides": lambda: self._integers(self._num_dims),
            "strides": lambda: self._integers(self._num_dims),
            "matrices": self._matrices,
            "box": lambda: self._integers(self._num_dims + 1) if self._often() else [],
            "rule": lambda: self._random.choice(["", "kaiming_std", "xavier_std", "fan_avg", "another"]),
        }
        by_type = {"Tensor": self._tensor, "int": self._integer, "List[int]": lambda: self._integers(3)}
        return by_name.get(name, by_type.get(kind, self._number))()

    def _often(self) -> bool:
        return self._random.random() < 0.9

    def _integer(self) -> int:
        return self._random.randrange(5) if self._often() else self._random.choice(LARGE)

    def _number(self) -> object:
        return (
            self._random.choice(FLOATS) if self._often() else self._random.choice([3, 10**400, None, 1j, "1"])
        )

    def _integers(self, length: int, end: int = 50) -> object:
        if self._often():
            large = LARGE if self._random.random() < 0.2 else [0]
            numbers = [self._random.randrange(end), self._random.choice(large)]
            return [self._random.choice(numbers) for _ in range(length)]
        return self._random.choice([None, [], [0] * (length + 1), ["1"] * length, 3])

    def _keys(self, rows: int) -> object:
        keys = torch.randint(-(2**62), 2**62, (rows, 2))
        return keys if self._often() else self._random.choice(WRONG_KEYS)(keys)

    def _tensor(self) -> object:
        tensor = self._strided(self._random.choice(FILLED if self._often() else DTYPES))
        changed = tensor if self._random.random() < 0.6 else self._random.choice(WRONG_TENSORS)(tensor)
        self._num_dims += changed.dim() if isinstance(changed, Tensor) else 1
        return changed

    def _matrices(self) -> object:
        if not self._often():
            return self._tensor()
        shape = [self._random.choice([0, 1, 2, 5, 40]) for _ in range(3)]
        matrices = torch.randn(shape, dtype=self._random.choice([torch.float32, torch.float64]))
        return matrices.masked_fill_(
            torch.rand(shape) < self._random.choice([0, 0.1, 1]), self._random.choice(FLOATS)
        )

    def _strided(self, dtype: torch.dtype) -> Tensor:
        """Return a tensor of any strides amid memory that is watched. Some have elements that overlap."""
        shape = [self._random.choice([0, 1, 2, 3, 4, 9]) for _ in range(self._random.randrange(5))]
        strides, step = [0] * len(shape), 1
        for dim in self._random.sample(range(len(shape)), len(shape)):
            strides[dim] = step
            step *= max(shape[dim], 1) + (0 if self._often() else self._random.randrange(-1, 3))
        size, offset = dtype.itemsize, MARGIN // dtype.itemsize
        reach = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True) if n)
        memory = torch.randint(0, 255, ((reach + 2 * offset) * size,), dtype=torch.uint8)
        own = torch.zeros(reach + 2 * offset, dtype=torch.bool)
        own.as_strided(shape, strides, offset).fill_(True)
        self._watched.append((memory, memory.clone(), own.repeat_interleave(size)))
        return memory.view(dtype).as_strided(shape, strides, offset)


def freed(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def cut(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() // 2)
    return tensor


def inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


WRONG_KEYS: list[Callable[[Tensor], object]] = [
    lambda keys: None,
    lambda keys: keys.int(),
    lambda keys: keys[:, :1],
    lambda keys: keys.expand(3, *keys.shape),
    lambda keys: torch.ones(2, 2, dtype=torch.int64).t(),
    lambda keys: keys.to("meta"),
    lambda keys: keys.to_sparse(),
    lambda keys: 3,
    freed,
    cut,
]
WRONG_TENSORS: list[Callable[[Tensor], object]] = [
    lambda tensor: None,
    lambda tensor: "tensor",
    lambda tensor: [tensor],
    lambda tensor: freed(tensor.clone()),
    lambda tensor: cut(tensor.clone()),
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.clone().requires_grad_(),
    lambda tensor: inference(tensor),
    lambda tensor: tensor.expand(3, *tensor.shape),
    lambda tensor: torch.zeros(70_000),
    lambda tensor: torch.zeros([1] * 64),
    lambda tensor: torch.zeros(3, dtype=torch.complex64).conj().imag,
    lambda tensor: torch.zeros(3, 2).to_sparse(),
    lambda tensor: torch.eye(3).to_sparse_csr(),
    lambda tensor: torch.zeros(3, 2).to_mkldnn(),
    lambda tensor: torch.quantize_per_tensor(torch.zeros(3, 2), 0.1, 0, torch.qint8),
    lambda tensor: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)]),
]


def main(seed: int = 0, num_calls: int = 4000) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch._tensor_str._str = lambda *_, **__: (
        "tensor"
    )  # PyTorch's errors show arguments, and read freed memory
    schemas = [
        schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("convinit_ext::")
    ]
    schemas.sort(key=lambda schema: schema.name)
    accepted = Counter({schema.name: 0 for schema in schemas})
    for number in range(num_calls):
        print(number, end=" ", flush=True)
        schema, call = schemas[number % len(schemas)], Call(seed, number)
        try:
            arguments = call.arguments(schema)
        except (RuntimeError, NotImplementedError):  # PyTorch cannot change a tensor of such a dtype so
            continue
        with suppress(Exception):
            getattr(torch.ops.convinit_ext, schema.name.split("::")[1])(*arguments)
            accepted[schema.name] += 1
        call.check_memory_of_others()
    print("\n", *(f"{name}={count}" for name, count in accepted.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
