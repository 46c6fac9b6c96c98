"""Uniform and normal fills by Triton's own generator, to compare with; its values are nobody's contract."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit
def _uniform(out, size, seed, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    tl.store(out + index, tl.rand(seed, index).to(out.dtype.element_ty), mask=index < size)


@triton.jit
def _normal(out, size, seed, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    tl.store(out + index, tl.randn(seed, index).to(out.dtype.element_ty), mask=index < size)


def fill(tensor: torch.Tensor, distribution: str) -> torch.Tensor:
    """Fill with the standard uniform or normal distribution."""
    kernel = {"uniform": _uniform, "normal": _normal}[distribution]
    kernel[(triton.cdiv(tensor.numel(), BLOCK),)](tensor, tensor.numel(), 0, block=BLOCK)
    return tensor
