"""Models for the tests of inspect_model."""

from torch import nn


def mlp(depth: int = 4, inplace: bool = False) -> nn.Sequential:
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.ReLU(inplace))]
    return nn.Sequential(*hidden, nn.Linear(32, 6))
