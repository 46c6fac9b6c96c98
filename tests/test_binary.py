"""The compiled module: no debug information, what it needs of torch and CUDA, where vectors are used."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from processes import ROOT

from convinit_ext import _C

MODULE = Path(_C.__file__)
OBJECTS = ROOT / "build" / "objects" / "csrc"
INCLUDE = Path(torch.__file__).parent / "include" / "torch" / "csrc"
SHIMS = ("stable/c/shim.h", "inductor/aoti_torch/c/shim.h")  # what a later torch still has
TORCH = re.compile(r"^(aoti_)?torch_")
MANGLED = re.compile(r"_Z\w*?(2at|3c10|5torch|6caffe2)\d")  # its C++, which changes with every release
VECTORS = re.compile(r"%[yz]mm\d|\tv[a-z0-9]+ ")  # AVX and later: registers, or an encoding of theirs


def lines_of(*command: str | Path) -> list[str]:
    """What a tool of binutils prints; skips the test where there is none."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"there is no {command[0]}")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_there_is_no_debug_information():
    assert b".debug_info" not in MODULE.read_bytes()


@pytest.mark.skipif(platform.system() != "Linux", reason="nm prints other names")
def test_only_symbols_of_the_stable_interface_are_used():
    undefined = [line.split()[-1].partition("@")[0] for line in lines_of("nm", "-D", "-u", MODULE)]
    declared = {word for shim in SHIMS for word in re.findall(r"\w+", (INCLUDE / shim).read_text())}
    of_torch = [name for name in undefined if TORCH.match(name)]
    assert of_torch and [name for name in of_torch if name not in declared] == []
    assert [name for name in undefined if MANGLED.match(name)] == []


@pytest.mark.skipif(platform.system() != "Linux", reason="there is no readelf")
def test_the_module_brings_cudas_runtime_along():
    """Whichever libcudart torch has, or none: a wheel with CUDA asks for no file of a toolkit."""
    needed = [line for line in lines_of("readelf", "-d", MODULE) if "(NEEDED)" in line]
    assert any("libtorch_cpu.so" in line for line in needed)
    assert [line for line in needed if "cudart" in line] == []


def test_only_files_of_an_instruction_set_use_it():
    """Of the objects that were linked: the others run on every processor."""
    if platform.machine() != "x86_64" or not (objects := sorted(OBJECTS.glob("*/*.o"))):
        pytest.skip("there are no objects for x86-64")
    found = {path.stem: any(map(VECTORS.search, lines_of("objdump", "-d", path))) for path in objects}
    assert {name for name, has in found.items() if has} == {"fill_avx2", "fill_avx512"}
