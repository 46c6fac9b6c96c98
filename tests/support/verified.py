"""A model that holds a bit of everything, as verify looks at it; for test_verify*.py."""

import torch
from torch import nn

from convinit_ext import init_model_

SEED = 2**63 + 11


class Net(nn.Module):
    """Convolutions, a padding row, normalisation, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(19, 6, padding_idx=4)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.back = nn.ConvTranspose2d(8, 4, 2)
        self.head = nn.Linear(6, 19)
        self.head.weight = self.embed.weight


def made(seed: int = SEED, recipe: object = "torch", **more: object) -> Net:
    model = Net()
    init_model_(model, seed, recipe, **more)
    return model


def on_meta(build: object = Net) -> nn.Module:
    with torch.device("meta"):
        return build()
