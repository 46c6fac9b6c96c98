"""Pins where training starts from: a change of the model, its recipe or a library that moves one bit is seen here.

Nothing is allocated: the values are generated block by block.
"""

import torch
from model import build

from convinit_ext import plan_model

PINNED = "?"  # renew it by hand, on purpose


def test_initialisation_is_the_pinned_one() -> None:
    with torch.device("meta"):
        model = build()
    assert plan_model(model, seed=42, recipe="he").fingerprint() == PINNED
