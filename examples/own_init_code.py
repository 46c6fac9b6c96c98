"""A model's own init code on these kernels: the same weights in any order, also slice by slice.

python examples/own_init_code.py
"""

import torch
from torch import nn
from torch.nn.init import trunc_normal_  # a reference of its own, taken before the block

from convinit_ext import Key, init, intercept


class Attention(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def init_weights(self) -> None:
        trunc_normal_(self.qkv.weight, std=0.02)
        nn.init.xavier_uniform_(self.out.weight)

    def init_weights_slice_by_slice(self) -> None:
        self.out.reset_parameters()
        nn.init.xavier_uniform_(self.out.weight)
        for part in reversed(self.qkv.weight.chunk(3)):
            trunc_normal_(part, std=0.02)


def main() -> None:
    first, second = Attention(), Attention()
    with intercept(first, seed=0):
        first.init_weights()
    with intercept(second, seed=0):
        second.init_weights_slice_by_slice()
    print(f"in another order, by slices: same weights: {torch.equal(first.qkv.weight, second.qkv.weight)}")

    alone = init.trunc_normal_(torch.empty(192, 64), std=0.02, key=Key(0, "qkv.weight"))
    print(f"by its name alone, without the model: {torch.equal(alone, first.qkv.weight)}")

    alone = init.xavier_uniform_(torch.empty(64, 64), key=Key(0, "out.weight#1"))
    print(f"the second fill of a parameter has the key name#1: {torch.equal(alone, second.out.weight)}")


if __name__ == "__main__":
    main()
