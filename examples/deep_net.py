"""A deep net of linear layers and ReLU, to look at: how far does the signal come, by which recipe?

python -m convinit_ext inspect --model examples.deep_net:build --recipe he --recipe xavier --recipe torch
"""

from torch import nn


def build(depth: int = 20, width: int = 256) -> nn.Module:
    hidden = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))
