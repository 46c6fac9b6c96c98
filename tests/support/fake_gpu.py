"""GPUs that tests/cuda/fake_gpu.cpp makes up, and calls of the CUDA ops for them; for test_cuda_ops.py."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from compiling import CALLED, CSRC, CXX
from processes import ROOT

from convinit_ext._engine import HAS_CUDA
from convinit_ext._engine import _ops as ops

NEEDED = [
    pytest.mark.skipif(HAS_CUDA, reason="this build has the ops already"),
    pytest.mark.skipif(CXX is None, reason="no compiler"),
]
TORCH = Path(torch.__file__).parent
ON_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
BYTES = (torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex128)
DEVICE_MEMORY = "device memory on {0}"


def by_value(op: str) -> list[str]:
    """What the log says of a short list; those that read have memory for their results first."""
    return [DEVICE_MEMORY] * (op != "fill") + [f"launch {op} by value on {{0}}, stream of {{0}}"]


def from_memory(op: str) -> list[str]:
    """Likewise of a long one."""
    launch = f"launch {op} from memory on {{0}}, stream of {{0}}"
    return [DEVICE_MEMORY] * (op != "fill") + [DEVICE_MEMORY, "pinned memory on {0}", "aten::copy_", launch]


def loaded_library(folder: Path) -> ctypes.CDLL:
    """Build the ops with those GPUs, and register them in this process: once."""
    path = folder / "fake_gpu.so"
    sources = [
        ROOT / "tests" / "cuda" / "fake_gpu.cpp",
        *(CSRC / "torch" / f"{name}.cpp" for name in ("ops_cuda", "tasks", "arguments")),
    ]
    command = [CXX, "-std=c++17", "-O0", CALLED, "-ffp-contract=off", "-fPIC", "-shared", "-Wl,-Bsymbolic"]
    command += ["-fvisibility=hidden", f"-I{CSRC}", f"-isystem{TORCH / 'include'}", *map(str, sources)]
    command += [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10", "-ldl", "-o", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    torch.ops.load_library(path)
    loaded = ctypes.CDLL(str(path))
    loaded.fake_put.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int32]
    loaded.fake_log.restype = ctypes.c_char_p
    return loaded


Given = tuple[list[torch.Tensor], torch.Tensor, list[ops.Encoded]]


class Gpus:
    """Puts tensors on devices, and calls the CUDA ops for them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.fake_reset()

    def put(self, tensor: torch.Tensor, device: int) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.library.fake_put(storage.data_ptr(), storage.nbytes(), device)
        return tensor

    def put_all(self, tensors: list[torch.Tensor], *devices: int | None) -> None:
        """On these devices in turn, of which None is the CPU. Those without elements have no address."""
        for number, tensor in enumerate(tensors):
            if (device := devices[number % len(devices)]) is not None:
                self.put(tensor, device)
        self.library.fake_put(0, 1, next(device for device in devices if device is not None))

    def run(self, op: str, tensors, keys, kinds=(), boxes=None) -> torch.Tensor | None:
        encoded = () if op == "digest" else ops.encoded(kinds)
        where = ([], []) if boxes is None else ops._encode_boxes(tensors, boxes)
        called = {"fill": ops._fill_op, "digest": ops._digest_op, "compare": ops._compare_op}[op]
        return called.redispatch(ON_CUDA, tensors, keys, *encoded, *where)

    def log(self) -> list[str]:
        return self.library.fake_log().decode().splitlines()


def bytes_of(shape, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)
