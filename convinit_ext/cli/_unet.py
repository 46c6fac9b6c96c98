"""The layers of a large convolutional model: a U-Net of residual blocks with attention, for image diffusion.

They are only to be initialised, by `python -m convinit_ext run`, and so are without their wiring. Of torch.nn
alone, so that it needs nothing but PyTorch.
"""

from __future__ import annotations

import torch
from torch import nn

FULL_WIDTH = 288  # 550 million parameters; their number grows with the square of the width
NUM_GROUPS = 32  # of every GroupNorm: the width is a multiple of it
HEAD_WIDTH = 64
LEVELS = ((1, False), (2, True), (4, True), (4, True))  # channels in widths, attention or not


class Layers(nn.Module):
    """Layers by name."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def _residual(channels: int, out: int, time_channels: int) -> Layers:
    """GroupNorm, SiLU, 3x3 convolution, twice; the time embedding shifts the middle, 1x1 fits the skip."""
    return Layers(
        norm1=nn.GroupNorm(NUM_GROUPS, channels),
        conv1=nn.Conv2d(channels, out, 3, padding=1),
        time=nn.Linear(time_channels, out),
        norm2=nn.GroupNorm(NUM_GROUPS, out),
        conv2=nn.Conv2d(out, out, 3, padding=1),
        skip=nn.Identity() if channels == out else nn.Conv2d(channels, out, 1),
    )


def _attention(channels: int) -> Layers:
    """Self-attention over the pixels, then a two-layer perceptron, each with its norm and residual."""
    return Layers(
        norm1=nn.GroupNorm(NUM_GROUPS, channels),
        attention=nn.MultiheadAttention(channels, max(1, channels // HEAD_WIDTH), batch_first=True),
        norm2=nn.LayerNorm(channels),
        expand=nn.Linear(channels, 4 * channels),
        project=nn.Linear(4 * channels, channels),
    )


class Stage(Layers):
    """A residual block and, where the level has it, attention."""

    def __init__(self, channels: int, out: int, time_channels: int, attention: bool) -> None:
        super().__init__(
            residual=_residual(channels, out, time_channels),
            attention=_attention(out) if attention else nn.Identity(),
        )


def _level(channels: int, index: int, width: int, ascending: bool) -> Layers:
    """The stages at one resolution, then a convolution that halves or doubles it (the identity at the ends).

    On the way up every stage takes what the one on the way down gave, beside what comes from below.
    """
    scale, attention = LEVELS[index]
    out = scale * width
    inputs = (channels + out, 2 * out) if ascending else (channels, out)
    resample: nn.Module = nn.Identity()
    if ascending and index > 0:
        resample = nn.ConvTranspose2d(out, out, 4, stride=2, padding=1)
    elif not ascending and index + 1 < len(LEVELS):
        resample = nn.Conv2d(out, out, 3, stride=2, padding=1)
    stages = nn.ModuleList([Stage(each, out, 4 * width, attention) for each in inputs])
    return Layers(stages=stages, resample=resample)


class UNet(Layers):
    """The whole model: predicts an image from a noisy image and a time step.

    Args:
        width: channels of the first level, a multiple of 32.

    Raises:
        ValueError: the width is not a positive multiple of 32.
    """

    def __init__(self, width: int = FULL_WIDTH) -> None:
        if width <= 0 or width % NUM_GROUPS:
            raise ValueError(f"width must be a positive multiple of {NUM_GROUPS}, got {width}")
        wide, image_channels, num_steps = 4 * width, 4, 1000
        widths = [scale * width for scale, _ in LEVELS]
        down = enumerate([width, *widths[:-1]])
        up = reversed(list(enumerate([*widths[1:], widths[-1]])))
        super().__init__(
            embed=nn.Sequential(
                nn.Embedding(num_steps, width), nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide)
            ),
            stem=nn.Conv2d(image_channels, width, 3, padding=1),
            down=nn.ModuleList([_level(channels, index, width, False) for index, channels in down]),
            middle=Stage(widths[-1], widths[-1], wide, attention=True),
            up=nn.ModuleList([_level(channels, index, width, True) for index, channels in up]),
            norm=nn.GroupNorm(NUM_GROUPS, width),
            head=nn.Conv2d(width, image_channels, 3, padding=1),
        )


def width_for(num_elements: int | None) -> int:
    """The largest width, up to the full one, at which the model takes no more than half of so many elements.

    >>> width_for(None) == width_for(2 * 10**9) == FULL_WIDTH
    True
    """
    for width in range(FULL_WIDTH, NUM_GROUPS, -NUM_GROUPS):
        if num_elements is None or 2 * num_parameters(width) <= num_elements:
            return width
    return NUM_GROUPS


def num_parameters(width: int) -> int:
    """Parameters of the model, counted without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(width).parameters())
