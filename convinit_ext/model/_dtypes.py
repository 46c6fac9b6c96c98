"""The dtype of each tensor afterwards: what dtype= asks for, and what stays float32 whatever it asks."""

from __future__ import annotations

import re
from typing import Any

import torch

from convinit_ext.model._named_tensors import NamedTensor

_FREQUENCIES = re.compile(r"(^|\.)(original_)?inv_freq$")  # of rotary embeddings
# What transformers' models keep in float32, as parts of names; the first of them in float16 alone.
_KEPT = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")


def dtype_of(held: NamedTensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype of a tensor afterwards where the caller asks for this one; if it is no float, its own.

    Source: PreTrainedModel._get_dtype_plan of transformers.
    """
    own = held.tensor.dtype
    if dtype is None or not own.is_floating_point:
        return own
    if dtype in (torch.float16, torch.bfloat16) and own == torch.float32 and _is_kept(held, dtype):
        return own
    return dtype


def _is_kept(held: NamedTensor, dtype: torch.dtype) -> bool:
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
