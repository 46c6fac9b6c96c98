"""The same seed gives the same weights, whatever the order, the threads, the memory format or the dtype.

python examples/same_weights_anywhere.py
"""

import torch
from torch import nn

from convinit_ext import Key, init, init_model_


def build(extra_layer: bool) -> nn.Module:
    layers = {"stem": nn.Conv2d(3, 64, 7), "body": nn.Conv2d(64, 128, 3)}
    if extra_layer:
        layers = {"new": nn.Conv2d(3, 3, 1), **layers}
    return nn.ModuleDict(layers)


def main() -> None:
    first, second = build(extra_layer=False), build(extra_layer=True).to(memory_format=torch.channels_last)
    init_model_(first, seed=0, recipe="he")
    torch.set_num_threads(1)
    init_model_(second, seed=0, recipe="he")
    same = torch.equal(first["body"].weight, second["body"].weight)
    print(f"another layer before it, channels_last, one thread: same weights: {same}")

    half = build(extra_layer=False)
    init_model_(half, seed=0, recipe="he", dtype=torch.bfloat16)
    same = torch.equal(half["body"].weight, first["body"].weight.bfloat16())
    print(f"bfloat16 is the rounding of float32: {same}")

    alone = torch.empty(128, 64, 3, 3)
    init.kaiming_normal_(alone, mode="fan_out", nonlinearity="relu", key=Key(seed=0, name="body.weight"))
    print(f"one tensor by its name, without the model: {torch.equal(alone, first['body'].weight)}")


if __name__ == "__main__":
    main()
