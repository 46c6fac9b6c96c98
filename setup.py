"""Builds convinit_ext._C. Everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    sys.exit(
        "convinit_ext builds against the torch that is installed, and there is none: "
        "pip install torch, then pip install --no-build-isolation ."
    )

ROOT = Path(__file__).parent


def extension() -> CppExtension:
    sources = sorted(ROOT.glob("csrc/*.cpp")) + sorted(ROOT.glob("csrc/cpu/*.cpp"))
    return CppExtension(
        name="convinit_ext._C",
        sources=[str(source.relative_to(ROOT)) for source in sources],
        include_dirs=[str(ROOT / "csrc")],
        depends=[str(header) for header in sorted(ROOT.glob("csrc/**/*")) if header.suffix in (".h", ".inl")],
        define_macros=[("CONVINIT_BUILT_WITH_TORCH", f'"{torch.__version__}"')],
        # No contraction: a fused multiply-add where the source has none would change the values.
        extra_compile_args=[
            "-O3",
            "-std=c++17",
            "-ffp-contract=off",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",  # torch's headers; then gcc 12's own avx512fintrin.h
            "-Wno-uninitialized",
            "-Wno-maybe-uninitialized",
        ],
    )


# What the build was for: an extension that cannot be loaded can still be told from one never built.
(ROOT / "convinit_ext" / "_build.py").write_text(
    f'"""Written by setup.py."""\n\nTORCH_VERSION = "{torch.__version__}"\n'
)
os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
