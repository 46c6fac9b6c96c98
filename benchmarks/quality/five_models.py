"""Five networks and the recipes that initialise them, for one_fingerprint.py: layers, without wiring.

What they compute is nobody's business here, so that they need nothing but torch. Their shapes are those of
the papers; the small ones have sizes that few numbers of processes divide.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))

from models import bundled_unet

from convinit_ext import Normal
from convinit_ext.cli._unet import Stage, UNet
from convinit_ext.recipes import HE, LLAMA, TRUNC_NORMAL, ZEROS, Recipe, Rule

SEED = 2**40 + 17
ORDERS = ("as written", "backwards", "shuffled")


class Network(nn.Module):
    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Bottleneck(nn.Module):
    """ResNet's block (He et al. 2016)."""

    def __init__(self, channels: int, width: int, is_first: bool) -> None:
        super().__init__()
        sizes = [channels, width, width, 4 * width]
        for number, kernel in enumerate((1, 3, 1)):
            pair = sizes[number : number + 2]
            setattr(self, f"conv{number + 1}", nn.Conv2d(*pair, kernel, bias=False))
            setattr(self, f"bn{number + 1}", nn.BatchNorm2d(pair[1]))
        if is_first:
            shortcut = nn.Conv2d(channels, 4 * width, 1, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))


def resnet(width: int, depths: tuple[int, ...], num_classes: int) -> nn.Module:
    blocks: list[nn.Module] = []
    channels = width
    for stage, depth in enumerate(depths):
        for number in range(depth):
            blocks.append(Bottleneck(channels, width << stage, number == 0))
            channels = 4 * width << stage
    return Network(
        conv1=nn.Conv2d(3, width, 7, bias=False),
        bn1=nn.BatchNorm2d(width),
        blocks=nn.ModuleList(blocks),
        fc=nn.Linear(channels, num_classes),
    )


class ResponseNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.empty(1, 1, 1, channels))


class ConvNeXtBlock(nn.Module):
    """ConvNeXt V2's block (Woo et al. 2023)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.grn = ResponseNorm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)


def convnextv2(channels: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    stages: list[nn.Module] = []
    before = 3
    for size, depth in zip(channels, depths, strict=True):
        down = nn.Conv2d(before, size, 4 if before == 3 else 2)
        stages.append(nn.ModuleList([down, nn.LayerNorm(size), *(ConvNeXtBlock(size) for _ in range(depth))]))
        before = size
    return Network(stages=nn.ModuleList(stages), head=nn.Linear(before, 1000))


class Experts(nn.Module):
    """Mixtral's: all of a layer's in one tensor, [experts, out, in]."""

    def __init__(self, num_experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * hidden, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, hidden))


class DecoderLayer(nn.Module):
    """Llama's layer (Touvron et al. 2023), or with experts Mixtral's (Jiang et al. 2024)."""

    def __init__(self, width: int, hidden: int, kv_width: int, num_experts: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(width, kv_width, bias=False) for _ in range(2))
        if num_experts:
            self.router = nn.Linear(width, num_experts, bias=False)
            self.experts = Experts(num_experts, width, hidden)
        else:
            self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
            self.down_proj = nn.Linear(hidden, width, bias=False)


def decoder(
    words: int, width: int, hidden: int, kv_width: int, num_layers: int, num_experts: int = 0
) -> nn.Module:
    layers = [DecoderLayer(width, hidden, kv_width, num_experts) for _ in range(num_layers)]
    return Network(
        embed_tokens=nn.Embedding(words, width),
        layers=nn.ModuleList(layers),
        norm=nn.RMSNorm(width),
        lm_head=nn.Linear(width, words, bias=False),
    )


UNITS = (Stage, Bottleneck, ConvNeXtBlock, DecoderLayer)  # what FSDP shards together


@dataclass(frozen=True)
class Case:
    """A network: at the shapes that its name says, and small."""

    what: str
    build: Callable[[], nn.Module]
    build_small: Callable[[], nn.Module]
    recipe: Recipe
    dtype: torch.dtype = torch.float32

    def made(self, small: bool, order: str = "as written") -> nn.Module:
        """Return the network with its modules and parameters in this order; on the device of the context."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            model = self.build_small() if small else self.build()
        finally:
            torch.set_default_dtype(before)
        shuffled = random.Random(order)
        for module in list(model.modules()) if order != "as written" else []:
            for members in (module._modules, module._parameters, module._buffers):
                entries = list(reversed(members.items()))
                if order == "shuffled":
                    shuffled.shuffle(entries)
                members.clear()
                members.update(entries)
        return model


CASES = {
    "U-Net": Case(
        "the U-Net of `python -m convinit_ext run`; recipe `he`", bundled_unet, lambda: UNet(width=32), HE
    ),
    "ResNet-50": Case(
        "ResNet-50; recipe `he`, the last norm of each block zero",
        lambda: resnet(64, (3, 4, 6, 3), 1000),
        lambda: resnet(6, (1, 2), 11),
        Recipe((Rule(ZEROS, name="*.bn3.weight"), *HE), allow_unused=True),
    ),
    "ConvNeXt V2": Case(
        "ConvNeXt V2 Large; recipe `trunc_normal`, response norms zero",
        lambda: convnextv2((192, 384, 768, 1536), (3, 3, 27, 3)),
        lambda: convnextv2((10, 18), (1, 2)),
        Recipe((Rule(ZEROS, name="*.grn.*"), *TRUNC_NORMAL), allow_unused=True),
    ),
    "Llama": Case(
        "Llama's layers at the sizes of TinyLlama 1.1B; recipe `llama`",
        lambda: decoder(32000, 2048, 5632, 256, 22),
        lambda: decoder(59, 24, 40, 12, 2),
        LLAMA,
        torch.bfloat16,
    ),
    "Mixtral": Case(
        "Mixtral 8x7B, one of its 32 layers, embedding and head; recipe `llama`, experts normal of std 0.02",
        lambda: decoder(32000, 4096, 14336, 1024, 1, num_experts=8),
        lambda: decoder(59, 24, 20, 12, 2, num_experts=6),
        Recipe((Rule(Normal(std=0.02), name="*.experts.*"), *LLAMA), allow_unused=True),
        torch.bfloat16,
    ),
}
