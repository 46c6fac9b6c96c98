"""Real models, built from their public configurations; nothing is downloaded."""

from __future__ import annotations

import itertools

from torch import nn

from convinit_ext.cli._unet import UNet


def sdxl_unet() -> nn.Module:
    """Stable Diffusion XL's UNet (Podell et al. 2023): 2.57 G parameters in 1680 tensors. Needs diffusers."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def convnextv2_huge() -> nn.Module:
    """ConvNeXt V2 Huge (Woo et al. 2023): 0.66 G parameters. Needs transformers."""
    from transformers import ConvNextV2Config, ConvNextV2Model

    return ConvNextV2Model(ConvNextV2Config(hidden_sizes=[352, 704, 1408, 2816], depths=[3, 3, 27, 3]))


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2016): 23.5 M parameters. Needs transformers."""
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig())


def small_llama() -> nn.Module:
    """Llama's layers at the width of GPT-2: 0.13 G parameters. Needs transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 768, "intermediate_size": 2048}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=12, num_attention_heads=12))


def unet2d() -> nn.Module:
    """diffusers' default UNet2DModel: 0.27 G parameters. Needs diffusers."""
    from diffusers import UNet2DModel

    return UNet2DModel(sample_size=64)


def run_init_code(model: nn.Module) -> None:
    """The model's own, as when it was built. transformers remembers which modules it has done."""
    for module in model.modules():
        vars(module).pop("_is_hf_initialized", None)
    if hasattr(model, "init_weights"):
        model.init_weights()
        return
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def bundled_unet() -> nn.Module:
    """The model of `python -m convinit_ext run`."""
    return UNet()


# The layers of networks without their wiring: they are only to be initialised, and need no package.


def sdxl_layers() -> nn.Module:
    """The modules of sdxl_unet(): its 1680 tensors."""
    layers: list[nn.Module] = []
    for number, size_in, size_out, kernel in SDXL_CONVOLUTIONS:
        layers += [nn.Conv2d(size_in, size_out, kernel) for _ in range(number)]
    for number, size_in, size_out, bias in SDXL_LINEARS:
        layers += [nn.Linear(size_in, size_out, bias) for _ in range(number)]
    layers += [nn.GroupNorm(32, size) for number, size in SDXL_GROUP_NORMS for _ in range(number)]
    layers += [nn.LayerNorm(size) for number, size in SDXL_LAYER_NORMS for _ in range(number)]
    return nn.ModuleList(layers)


# number of them, inputs, outputs, kernel
SDXL_CONVOLUTIONS = (
    (11, 1280, 1280, 3),
    (1, 1280, 640, 1),
    (1, 1280, 640, 3),
    (1, 1920, 1280, 1),
    (1, 1920, 1280, 3),
    (1, 1920, 640, 1),
    (1, 1920, 640, 3),
    (2, 2560, 1280, 1),
    (2, 2560, 1280, 3),
    (8, 320, 320, 3),
    (1, 320, 4, 3),
    (1, 320, 640, 1),
    (1, 320, 640, 3),
    (1, 4, 320, 3),
    (1, 640, 1280, 1),
    (1, 640, 1280, 3),
    (2, 640, 320, 1),
    (2, 640, 320, 3),
    (8, 640, 640, 3),
    (1, 960, 320, 1),
    (1, 960, 320, 3),
    (1, 960, 640, 1),
    (1, 960, 640, 3),
)
# number of them, inputs, outputs, whether they have a bias
SDXL_LINEARS = (
    (60, 1280, 10240, True),
    (240, 1280, 1280, False),
    (141, 1280, 1280, True),
    (5, 1280, 320, True),
    (5, 1280, 640, True),
    (120, 2048, 1280, False),
    (20, 2048, 640, False),
    (10, 2560, 640, True),
    (1, 2816, 1280, True),
    (1, 320, 1280, True),
    (60, 5120, 1280, True),
    (10, 640, 5120, True),
    (40, 640, 640, False),
    (30, 640, 640, True),
)
# number of them, channels
SDXL_GROUP_NORMS = ((17, 1280), (2, 1920), (2, 2560), (9, 320), (14, 640), (2, 960))
SDXL_LAYER_NORMS = ((180, 1280), (30, 640))


def resnet50_layers() -> nn.Module:
    """ResNet-50 (He et al. 2016): 25.6 M parameters in 161 tensors."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)]
    channels = 64
    for width, num_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(num_blocks):
            convolutions = [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)]
            convolutions += [(channels, 4 * width, 1)] if block == 0 else []
            for size_in, size_out, kernel in convolutions:
                layers += [nn.Conv2d(size_in, size_out, kernel, bias=False), nn.BatchNorm2d(size_out)]
            channels = 4 * width
    return nn.ModuleList([*layers, nn.Linear(channels, 1000)])


def llama_7b_layers() -> nn.Module:
    """Llama 2 7B (Touvron et al. 2023): 6.74 G parameters in 291 tensors."""
    width, hidden, words = 4096, 11008, 32000
    layers: list[nn.Module] = [nn.Embedding(words, width)]
    for _ in range(32):
        layers += [nn.Linear(width, width, bias=False) for _ in range(4)]
        sizes = itertools.pairwise((width, hidden, width))
        layers += [nn.Linear(*each, bias=False) for each in ((width, hidden), *sizes)]
        layers += [nn.RMSNorm(width), nn.RMSNorm(width)]
    return nn.ModuleList([*layers, nn.RMSNorm(width), nn.Linear(width, words, bias=False)])
