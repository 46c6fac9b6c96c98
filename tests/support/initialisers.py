"""Every function of init with arguments and shapes, to be called on shards of a tensor."""

import torch
from torch import Tensor

from convinit_ext import Key, init

KEY = Key(3, "block.weight")

# name: how to call it, and shapes with sizes that no mesh divides
RANDOM = {
    "uniform": (lambda w, **more: init.uniform_(w, -0.5, 2.0, **more), [(7, 5), (13,), (3, 2, 5)]),
    "normal": (lambda w, **more: init.normal_(w, 1.0, 0.3, **more), [(7, 5), (13,), (3, 2, 5)]),
    "trunc_normal": (lambda w, **more: init.trunc_normal_(w, 0.0, 2.0, -1.0, 3.0, **more), [(7, 5)]),
    "xavier_uniform": (lambda w, **more: init.xavier_uniform_(w, **more), [(7, 5), (6, 3, 3, 3)]),
    "xavier_normal": (lambda w, **more: init.xavier_normal_(w, groups=3, **more), [(6, 3, 3, 3)]),
    "kaiming_uniform": (lambda w, **more: init.kaiming_uniform_(w, **more), [(7, 5), (6, 3, 3, 3)]),
    "kaiming_normal": (lambda w, **more: init.kaiming_normal_(w, mode="fan_out", **more), [(7, 5)]),
    "kaiming_blocks": (lambda w, **more: init.kaiming_normal_(w, mode="fan_out", blocks=3, **more), [(6, 5)]),
    "xavier_axes": (
        lambda w, **more: init.xavier_uniform_(w, batch_axis=0, in_axis=1, out_axis=2, **more),
        [(3, 7, 5)],
    ),
    "trunc_normal_cut": (
        lambda w, **more: init.trunc_normal_(w, 0.3, 2.0, cut=1.5, corrected=True, **more),
        [(7, 5)],
    ),
    "variance_scaling": (
        lambda w, **more: init.variance_scaling_(w, 2.0, "fan_avg", "truncated_normal", **more),
        [(7, 5)],
    ),
    "lecun_normal": (lambda w, **more: init.lecun_normal_(w, **more), [(7, 5)]),
    "lecun_uniform": (lambda w, **more: init.lecun_uniform_(w, **more), [(7, 5)]),
    "orthogonal": (lambda w, **more: init.orthogonal_(w, 2.0, **more), [(7, 5), (3, 2, 5)]),
    "orthogonal_blocks": (lambda w, **more: init.orthogonal_(w, blocks=3, **more), [(9, 2), (6, 2, 3)]),
    "orthogonal_axes": (
        lambda w, **more: init.orthogonal_(w, batch_axis=1, in_axis=0, out_axis=(2, 3), **more),
        [(3, 2, 5, 1)],
    ),
    "delta_orthogonal": (lambda w, **more: init.delta_orthogonal_(w, **more), [(7, 5, 3), (6, 3, 2, 3)]),
    "sparse": (lambda w, **more: init.sparse_(w, 0.4, **more), [(7, 5), (13, 2)]),
}
FIXED = {
    "eye": (lambda w, **more: init.eye_(w, **more), [(7, 5), (5, 7), (9, 9)]),
    "dirac": (lambda w, **more: init.dirac_(w, **more), [(7, 5, 3), (4, 6, 2, 3), (3, 3, 3, 1, 2)]),
    "dirac_groups": (lambda w, **more: init.dirac_(w, 2, **more), [(6, 2, 3), (8, 6, 1, 1)]),
    "identity": (lambda w, **more: init.identity_(w, 3.0, **more), [(7, 5), (7, 5, 3)]),
}
WITHOUT_SHARD = {
    "constant": (lambda w: init.constant_(w, 0.3), [(7, 5), (13,)]),
    "ones": (init.ones_, [(7, 5)]),
    "zeros": (init.zeros_, [(7, 5)]),
}
ALL = RANDOM | FIXED | WITHOUT_SHARD


def unset(shape) -> Tensor:
    return torch.full(shape, torch.nan)


def key_of(name: str) -> dict[str, Key]:
    return {"key": KEY} if name in RANDOM else {}
