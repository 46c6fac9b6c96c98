"""Models of transformers, diffusers and timm, small, with sizes that few meshes divide; nothing is loaded."""

import sys
from pathlib import Path

import pytest
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from models import run_init_code as run_init_code


def _of_transformers(name: str, task: str, **sizes) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"{name}{task}")(getattr(transformers, f"{name}Config")(**sizes))


def resnet() -> nn.Module:
    sizes = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}
    return _of_transformers("ResNet", "ForImageClassification", **sizes)


def convnextv2() -> nn.Module:
    sizes = {"hidden_sizes": [12, 20, 36, 52], "depths": [1, 1, 2, 1]}
    return _of_transformers("ConvNextV2", "ForImageClassification", **sizes)


def llama(**more: object) -> nn.Module:
    sizes = {"vocab_size": 151, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    return _of_transformers("Llama", "ForCausalLM", **sizes, **heads, **more)


def tied_llama() -> nn.Module:
    return llama(tie_word_embeddings=True)


def bert() -> nn.Module:
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return _of_transformers("Bert", "ForMaskedLM", **sizes, num_attention_heads=4)


def t5(**more: object) -> nn.Module:
    sizes = {"vocab_size": 99, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    return _of_transformers("T5", "ForConditionalGeneration", **sizes | more)


def mixtral() -> nn.Module:
    """The weights of all experts of a layer are one tensor, [experts, out, in]; so is its router's."""
    sizes = {"vocab_size": 59, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 6}
    return _of_transformers("Mixtral", "ForCausalLM", **sizes, **heads)


def vit() -> nn.Module:
    """Its weights are truncated normals."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return _of_transformers("ViT", "ForImageClassification", **sizes, image_size=32, patch_size=8)


def gpt2() -> nn.Module:
    """Some of its weights are filled twice."""
    sizes = {"vocab_size": 200, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
    return _of_transformers("GPT2", "LMHeadModel", **sizes)


def unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, weight_init="jax")


def timm_convnext() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1))
