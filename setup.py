"""Builds convinit_ext._C. Everything else about the package is in pyproject.toml.

CONVINIT_CUDA=1 builds with CUDA or fails, 0 builds without; unset, it does if torch has CUDA and there is a
toolkit. CUDA_HOME says which toolkit, TORCH_CUDA_ARCH_LIST for which GPUs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

import setuptools

SETUPTOOLS = tuple(map(int, setuptools.__version__.split(".")[:2]))
if SETUPTOOLS < (64, 0):
    sys.exit(
        "convinit_ext builds with setuptools 64 or later, and setuptools "
        f"{setuptools.__version__} is installed: pip install 'setuptools>=64'"
    )
try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    if Path(sysconfig.get_path("platlib"), "torch").is_dir():
        sys.exit(
            "convinit_ext builds against the torch that is installed, and build isolation hides it: "
            "pip install --no-build-isolation ."
        )
    sys.exit(
        "convinit_ext builds against the torch that is installed, and there is none: "
        "pip install torch, then pip install --no-build-isolation ."
    )

ROOT = Path(__file__).resolve().parent  # ninja runs elsewhere, and older setuptools give no whole path
# Not in pyproject.toml, since setuptools before 77 takes no licence expression there.
LICENSE = {"license_expression" if SETUPTOOLS >= (77, 0) else "license": "Apache-2.0"}
# One of each generation, for whose later members it works too, and the first toolkit that knows it.
ARCHITECTURES = {
    "7.5": (10, 0),
    "8.0": (11, 0),
    "8.6": (11, 1),
    "9.0": (11, 8),
    "10.0": (12, 8),
    "12.0": (12, 8),
}
# Others that torch names in TORCH_CUDA_ARCH_LIST, and what it means by names.
OTHERS = {"8.7": (11, 4), "8.9": (11, 8), "10.3": (12, 9), "11.0": (13, 0), "12.1": (12, 9)}
# CUDA's runtime, inside the module instead of a file of some toolkit, and what it needs (docs/cuda.md).
RUNTIME = ["cudart_static", "rt", "dl", "pthread"]
TOO_OLD = ("Kepler", "Maxwell", "Pascal", "Volta")
# What would change values. nvcc reads its variables itself, after the flags that setup.py gives it.
FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "TORCH_NVCC_FLAGS", "CFLAGS", "CXXFLAGS", "CPPFLAGS")
ROUNDS_OTHERWISE = re.compile(
    r"--?use_fast_math|--?ftz[= ]*true|--?fmad[= ]*true|--?prec-(?:div|sqrt)[= ]*false|-Ofast|-ffast-math"
    r"|-funsafe-math-optimizations|-fassociative-math|-freciprocal-math|-ffinite-math-only|-ffp-contract=(?!off)\w+"
)
Version = tuple[int, int]


def toolkit_home(guess: str | None) -> str | None:
    """The toolkit that a folder's bin/nvcc belongs to, as it tells it; the folder itself where it does not.

    torch guesses the folder above the nvcc on PATH, which may be a script that calls another folder's.
    """
    nvcc = Path(guess or "", "bin", "nvcc")
    if guess is None or not nvcc.exists():
        return guess
    plan = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
    told = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    return os.path.normpath(told[1]) if told and Path(told[1], "bin", "nvcc").exists() else guess


def toolkit_version(home: str | None) -> Version | None:
    """Of the CUDA toolkit in a folder; None where there is none."""
    nvcc = Path(home or "", "bin", "nvcc")
    if home is None or not nvcc.exists():
        return None
    found = re.search(r"release (\d+)\.(\d+)", subprocess.check_output([nvcc, "--version"], text=True))
    return (int(found[1]), int(found[2])) if found else None


def with_cuda(wish: str | None, torch_cuda: str | None, toolkit: Version | None) -> bool:
    """Whether to build with CUDA, from CONVINIT_CUDA, torch's CUDA version and the toolkit's."""
    if wish not in (None, "", "0", "1"):
        sys.exit(f"CONVINIT_CUDA must be 1 (with CUDA), 0 (without) or unset, not {wish!r}")
    if wish == "0":
        return False
    if torch_cuda and toolkit and int(torch_cuda.split(".")[0]) != toolkit[0]:
        sys.exit(
            f"torch is built for CUDA {torch_cuda}, but the toolkit is {toolkit[0]}.{toolkit[1]}: set "
            "CUDA_HOME to one of the same major version, or CONVINIT_CUDA=0 to build without CUDA"
        )
    if wish == "1" and not torch_cuda:
        sys.exit(f"CONVINIT_CUDA=1 needs a torch with CUDA, and torch {torch.__version__} has none")
    if wish == "1" and not toolkit:
        sys.exit("CONVINIT_CUDA=1 needs the CUDA toolkit, and there is no nvcc: install it, or set CUDA_HOME")
    return bool(torch_cuda and toolkit)


def architectures(toolkit: Version) -> str:
    """All that the toolkit knows, and the newest one's PTX for what comes after."""
    return ";".join(arch for arch, since in ARCHITECTURES.items() if toolkit >= since) + "+PTX"


def check_architectures(chosen: str, toolkit: Version) -> None:
    """Exit where a GPU of TORCH_CUDA_ARCH_LIST has no code by this package, or by this toolkit."""
    for arch in re.split("[; ]+", chosen.strip("; ")):
        number = re.match(r"\d+\.\d", arch)
        if arch.startswith(TOO_OLD) or (number and float(number[0]) < 7.5):
            sys.exit(f"TORCH_CUDA_ARCH_LIST has {arch}: this package needs a GPU of 7.5 (sm_75) or later")
        since = (ARCHITECTURES | OTHERS).get(
            "11.0" if arch == "Blackwell+Tegra" else arch.split("+")[0].rstrip("af")
        )
        if since and toolkit < since:
            sys.exit(
                f"TORCH_CUDA_ARCH_LIST has {arch}, which CUDA {toolkit[0]}.{toolkit[1]} does not know: "
                f"it takes CUDA {since[0]}.{since[1]} or later"
            )


def check_flags(environment: Mapping[str, str]) -> None:
    """Exit where a variable that compilers read has a flag by which values would have other bits."""
    for name in FLAGS:
        if found := ROUNDS_OTHERWISE.search(environment.get(name, "")):
            sys.exit(
                f"{name} has {found[0]}: values would have other bits than this package promises; "
                f"take the flag out of {name}"
            )


def relative(paths: Iterable[Path]) -> list[str]:
    """In order, and as setuptools wants paths: of an absolute one it says a line on every build."""
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def extension(toolkit: Version | None) -> cpp_extension.CppExtension:
    """With CUDA where a toolkit is given."""
    sources = {*ROOT.glob("csrc/torch/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp")}
    macros = [("CONVINIT_BUILT_WITH_TORCH", f'"{torch.__version__}"')]
    if toolkit is not None:
        chosen = os.environ.get("TORCH_CUDA_ARCH_LIST") or architectures(toolkit)
        check_architectures(chosen, toolkit)
        os.environ["TORCH_CUDA_ARCH_LIST"] = chosen
        sources |= {*ROOT.glob("csrc/cuda/*.cu")}
        macros.append(("CONVINIT_CUDA", f'"{toolkit[0]}.{toolkit[1]} for {chosen.replace(";", " ")}"'))
    else:
        sources -= {ROOT / "csrc/torch/ops_cuda.cpp"}
    headers = [path for path in ROOT.glob("csrc/**/*") if path.suffix in (".h", ".inl")]
    # No contraction: a fused multiply-add where the source has none would change the values.
    cxx = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
    cxx += ["-g0"]  # Python's own flags have -g, which makes nine tenths of the module
    # torch's headers; then gcc 12's own avx512fintrin.h
    cxx += ["-Wno-unused-parameter", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    built = (cpp_extension.CUDAExtension if toolkit else cpp_extension.CppExtension)(
        name="convinit_ext._C",
        sources=relative(sources),
        include_dirs=[str(ROOT / "csrc")],
        depends=relative(headers),
        define_macros=macros,
        extra_compile_args={"cxx": cxx, "nvcc": ["-O3", "-std=c++17", "--fmad=false"]},
    )
    if toolkit is not None:
        built.libraries = [library for library in built.libraries if library != "cudart"] + RUNTIME
    return built


def version(toolkit: Version | None, command: Iterable[str]) -> str:
    """The package's, and after it the toolkit's that the build is with; sources are the same for all."""
    text = (ROOT / "convinit_ext" / "__init__.py").read_text()
    public = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    assert public is not None
    return public[1] if toolkit is None or "sdist" in command else f"{public[1]}+cu{toolkit[0]}{toolkit[1]}"


class BuildExtension(cpp_extension.BuildExtension):
    """Keeps the object files in one folder, so that an editable install and others compile nothing twice."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = os.path.join("build", "objects")


if __name__ == "__main__":
    check_flags(os.environ)
    cpp_extension.CUDA_HOME = toolkit_home(cpp_extension.CUDA_HOME)
    found = toolkit_version(cpp_extension.CUDA_HOME)
    toolkit = found if with_cuda(os.environ.get("CONVINIT_CUDA"), torch.version.cuda, found) else None
    # What the build was for: an extension that cannot be loaded can still be told from one never built.
    (ROOT / "convinit_ext" / "_build.py").write_text(
        f'"""Written by setup.py."""\n\nTORCH_VERSION = "{torch.__version__}"\n'
        f'PYTHON_VERSION = "{sys.version_info.major}.{sys.version_info.minor}"\n'
    )
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    setuptools.setup(
        **LICENSE,
        version=version(toolkit, sys.argv),
        ext_modules=[extension(toolkit)],
        cmdclass={"build_ext": BuildExtension},
    )
