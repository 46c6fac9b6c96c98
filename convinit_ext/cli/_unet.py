"""A large convolutional model to initialise: a U-Net of residual blocks with attention, for image diffusion.

Built from torch.nn alone, so that `python -m convinit_ext run` needs nothing but PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FULL_WIDTH = 288  # 550 million parameters; their number grows with the square of the width
NUM_GROUPS = 32  # of every GroupNorm: the width is a multiple of it
HEAD_WIDTH = 64
LEVELS = ((1, False), (2, True), (4, True), (4, True))  # channels in widths, attention or not


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; the time embedding shifts the middle, 1x1 fits the skip."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y: Tensor = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(time)[:, :, None, None]
        y = self.conv2(functional.silu(self.norm2(y)))
        skip: Tensor = self.skip(x)
        return skip + y


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, then a two-layer perceptron, each with its norm and residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, channels)
        self.attention = nn.MultiheadAttention(channels, max(1, channels // HEAD_WIDTH), batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm1(x).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(pixels, pixels, pixels, need_weights=False)
        tokens: Tensor = x.flatten(2).transpose(1, 2) + mixed
        tokens = tokens + self.project(functional.gelu(self.expand(self.norm2(tokens))))
        return tokens.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, attention: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, time_channels)
        self.attention: nn.Module = AttentionBlock(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y: Tensor = self.attention(self.residual(x, time))
        return y


class Level(nn.Module):
    """The stages at one resolution, then a convolution that halves or doubles it (the identity at the ends).

    On the way down every stage leaves its output in `skips`; on the way up every stage takes the latest back.
    """

    def __init__(self, in_channels: int, index: int, width: int, ascending: bool) -> None:
        super().__init__()
        scale, attention = LEVELS[index]
        out = scale * width
        skip = out if ascending else 0  # channels of what each stage takes back
        self.stages = nn.ModuleList(
            [Stage(channels + skip, out, 4 * width, attention) for channels in (in_channels, out)]
        )
        self.ascending = ascending
        self.resample: nn.Module = nn.Identity()
        if ascending and index > 0:
            self.resample = nn.ConvTranspose2d(out, out, 4, stride=2, padding=1)
        elif not ascending and index + 1 < len(LEVELS):
            self.resample = nn.Conv2d(out, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(torch.cat((x, skips.pop()), 1) if self.ascending else x, time)
            if not self.ascending:
                skips.append(x)
        resampled: Tensor = self.resample(x)
        return resampled


class UNet(nn.Module):
    """The whole model: predicts an image from a noisy image and a time step.

    Args:
        width: channels of the first level, a multiple of 32.
        image_channels: channels of the image, in and out.
        num_steps: rows of the time embedding.

    Raises:
        ValueError: the width is not a positive multiple of 32.

    Example:
        >>> model = UNet(width=32)
        >>> model(torch.zeros(1, 4, 16, 16), torch.tensor([7])).shape
        torch.Size([1, 4, 16, 16])
    """

    def __init__(self, width: int = FULL_WIDTH, image_channels: int = 4, num_steps: int = 1000) -> None:
        super().__init__()
        if width <= 0 or width % NUM_GROUPS:
            raise ValueError(f"width must be a positive multiple of {NUM_GROUPS}, got {width}")
        wide = 4 * width
        self.embed = nn.Sequential(
            nn.Embedding(num_steps, width), nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide)
        )
        self.stem = nn.Conv2d(image_channels, width, 3, padding=1)
        widths = [scale * width for scale, _ in LEVELS]
        self.down = nn.ModuleList(
            [Level(channels, index, width, False) for index, channels in enumerate([width, *widths[:-1]])]
        )
        self.middle = Stage(widths[-1], widths[-1], wide, attention=True)
        up = reversed(list(enumerate([*widths[1:], widths[-1]])))
        self.up = nn.ModuleList([Level(channels, index, width, True) for index, channels in up])
        self.norm = nn.GroupNorm(NUM_GROUPS, width)
        self.head = nn.Conv2d(width, image_channels, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        time: Tensor = functional.silu(self.embed(step))
        x: Tensor = self.stem(image)
        skips: list[Tensor] = []
        for level in self.down:
            x = level(x, time, skips)
        x = self.middle(x, time)
        for level in self.up:
            x = level(x, time, skips)
        predicted: Tensor = self.head(functional.silu(self.norm(x)))
        return predicted


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
