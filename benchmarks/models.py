"""Real models, built from their public configurations; nothing is downloaded."""

from __future__ import annotations

from torch import nn

from convinit_ext.bundled_model import UNet


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


def bundled_unet() -> nn.Module:
    """The model of `python -m convinit_ext run`."""
    return UNet()
