"""The recipe deepnorm: DeepNet's table, gains and fans of each projection, packed ones part by part."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doors import check_every_door, check_writes_nothing
from filling import assert_same_bits, values
from named_modules import conv1d
from planning import fillings, stds
from real_models import t5
from reference import layer_key, reference
from torch import nn

from convinit_ext import Constant, Key, Normal, init, init_model_
from convinit_ext.recipes import (
    DEEPNORM,
    TORCH,
    CopyFrom,
    Recipe,
    Rule,
    deepnorm,
    deepnorm_scales,
    depth_scaled,
)


def encoder(depth: int = 2, width: int = 8) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 2, 3 * width, batch_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class Block(nn.Module):
    def __init__(self, **projections: nn.Module) -> None:
        super().__init__()
        self.attn = nn.ModuleDict(projections)
        self.mlp = nn.ModuleDict({"gate_up_proj": nn.Linear(8, 40), "down_proj": nn.Linear(20, 8)})


def xavier(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    return gain * math.sqrt(2.0 / (fan_in + fan_out))


def test_the_constants_are_those_of_the_table():
    assert deepnorm_scales(18) == ((2 * 18) ** 0.25, (8 * 18) ** -0.25, None, None)
    found = deepnorm_scales(6, 4)
    assert found.alpha == pytest.approx(0.81 * (6**4 * 4) ** (1 / 16))
    assert found.beta == pytest.approx(0.87 * (6**4 * 4) ** (-1 / 16))
    assert found.decoder_alpha == pytest.approx((3 * 4) ** (1 / 4))
    assert found.decoder_beta == pytest.approx((12 * 4) ** (-1 / 4))


def test_gains_of_an_encoder_beside_a_decoder_and_of_one_alone():
    with pytest.warns(UserWarning, match="enable_nested_tensor"):
        both = nn.ModuleDict({"net": nn.Transformer(8, 2, 3, 2, 24), "head": nn.Linear(8, 5)})
    found, scales = stds(both, "deepnorm"), deepnorm_scales(3, 2)
    for stack, beta in (("encoder.layers.2", scales.beta), ("decoder.layers.1", scales.decoder_beta)):
        assert found[f"net.{stack}.self_attn.out_proj.weight"] == xavier(8, 8, beta)
        assert found[f"net.{stack}.linear1.weight"] == xavier(8, 24, beta)
        assert found[f"net.{stack}.linear2.weight"] == xavier(24, 8, beta)
    assert found["net.decoder.layers.0.multihead_attn.out_proj.weight"] == xavier(8, 8, scales.decoder_beta)
    assert found["head.weight"] == pytest.approx(xavier(8, 5))
    assert stds(both, deepnorm(3, 2)).items() >= {k: v for k, v in found.items() if v == v}.items()
    check_writes_nothing(both, deepnorm(3), ValueError, "pass deepnorm(num_layers, num_decoder_layers)")
    alone = stds(encoder(2), "deepnorm")
    assert alone["layers.0.linear1.weight"] == xavier(8, 24, 16**-0.25)
    assert stds(encoder(2), deepnorm(32))["layers.0.linear1.weight"] == xavier(8, 24, 256**-0.25)
    check_writes_nothing(encoder(), deepnorm(2, 2), ValueError, "in no module called encoder or decoder")


def normal(shape: tuple[int, ...], seed: int, name: str, std: float, dtype: str) -> torch.Tensor:
    """Normal values of a whole tensor by a name, which are the reference's within the contract's bounds."""
    made = init.normal_(torch.empty(shape, dtype=getattr(torch, dtype)), 0.0, std, key=Key(seed, name))
    expected = reference(shape, *layer_key(seed, name), ("normal", 0.0, std), dtype)
    np.testing.assert_allclose(values(made), expected, rtol=1e-2 if dtype == "bfloat16" else 1e-5)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_of_packed_projections_the_values_alone_have_gain_beta(dtype):
    model = encoder().to(getattr(torch, dtype))
    report = init_model_(model, 5, "deepnorm")
    name, beta = "layers.1.self_attn.in_proj_weight", 16**-0.25
    parts = [normal((24, 8), 5, name, xavier(8, 8, gain), dtype) for gain in (1.0, beta)]
    assert_same_bits(model.get_parameter(name), torch.cat([parts[0][:16], parts[1][16:]]))
    row = next(row for row in report.rows if row.name == name)
    assert (row.initialiser, row.fan_in, row.fan_out) == ("xavier_normal_ with gain 0.5 of v", 8, 8)


def test_packed_projections_of_other_kinds():
    grouped = Block(qkv_proj=nn.Linear(8, 12))  # 4 heads of 2, of keys and values 1 each
    grouped.config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=1)
    model = nn.ModuleList(
        [Block(c_attn=conv1d(8, 24)), grouped, Block(kv_proj=nn.Linear(8, 16), q=nn.Linear(8, 8))]
    )
    init_model_(model, 0, "deepnorm")

    def expected(name: str, sizes: list[int], dim: int = 0) -> None:
        found, at, gains = model.get_parameter(name), 0, [1.0] * (len(sizes) - 1) + [24**-0.25]
        for size, gain in zip(sizes, gains, strict=True):
            whole = normal(tuple(found.shape), 0, name, xavier(8, size, gain), "float32")
            assert_same_bits(found.detach().narrow(dim, at, size), whole.narrow(dim, at, size), name)
            at += size

    expected("0.attn.c_attn.weight", [8, 8, 8], dim=1)
    expected("1.attn.qkv_proj.weight", [8, 2, 2])
    expected("2.attn.kv_proj.weight", [8, 8])
    assert stds(model, "deepnorm")["2.mlp.gate_up_proj.weight"] == xavier(8, 20, 24**-0.25)
    assert stds(model, "deepnorm")["2.attn.q.weight"] == xavier(8, 8)


def test_embeddings_biases_norms_and_heads():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 16), "stack": encoder(), "fc2": nn.Linear(8, 2)})
    found = fillings(model, "deepnorm")
    assert found["embed.weight"] == Normal(0.0, 0.25)
    assert found["fc2.bias"] == found["stack.layers.0.self_attn.in_proj_bias"] == Constant(0.0)
    assert found["stack.layers.0.norm1.weight"] == Constant(1.0)
    assert found["fc2.weight"].high == pytest.approx(math.sqrt(3) * xavier(8, 2))  # in no block: no gain


def test_every_door_has_the_same_values(tmp_path):
    check_every_door(encoder, "deepnorm", tmp_path)


def test_copies_of_packed_projections_are_rounded_from_their_own_dtype():
    model = nn.ModuleDict({"stack": encoder(), "copy": nn.Linear(8, 24, bias=False, dtype=torch.float64)})
    name = "stack.layers.0.self_attn.in_proj_weight"
    init_model_(model, 0, [Rule(CopyFrom(name), name="copy.weight"), *DEEPNORM])
    assert torch.equal(model["copy"].weight, model.get_parameter(name).double())


@pytest.mark.parametrize(
    ("projections", "said"),
    [
        ({"query_key_value": nn.Linear(8, 24)}, "'0.attn.query_key_value.weight', xavier_normal_: its"),
        ({"qkv": nn.Linear(8, 20)}, "which of its 20 outputs are queries, keys and values"),
    ],
    ids=["interleaved", "unknown"],
)
def test_packed_projections_that_nobody_can_cut(projections, said):
    model = nn.ModuleList([Block(**projections)])
    check_writes_nothing(model, "deepnorm", ValueError, said)
    name = f"*.{next(iter(projections))}.weight"
    init_model_(model, 0, [Rule(Normal(0.0, 0.1), name=name), *DEEPNORM])


def test_models_and_arguments_that_make_no_sense():
    flat = nn.ModuleDict({"fc1": nn.Linear(3, 4), "fc2": nn.Linear(4, 2)})
    said = "recipe 'deepnorm' has 1 rule without effect:\n  rule 1 (xavier_normal_, where=...) fits no"
    check_writes_nothing(flat, "deepnorm", ValueError, said)
    check_writes_nothing(
        nn.TransformerEncoderLayer(8, 2, 16), "deepnorm", ValueError, "recipes.deepnorm(num_layers=12)"
    )
    init_model_(nn.TransformerEncoderLayer(8, 2, 16), 0, deepnorm(num_layers=12))
    for make, error, text in (
        (lambda: deepnorm(0), ValueError, "num_layers must be 1 or more, but found 0"),
        (lambda: deepnorm(2, 0), ValueError, "num_decoder_layers must be 1 or more, but found 0"),
        (lambda: deepnorm("2"), TypeError, "num_layers must be an int, not '2'"),
        (lambda: deepnorm(None, 2), ValueError, "num_decoder_layers goes with num_layers"),
        (lambda: deepnorm_scales(0), ValueError, "num_layers must be 1 or more"),
        (lambda: deepnorm_scales(None), TypeError, "num_layers must be an int, not None"),
        (lambda: depth_scaled("deepnorm"), ValueError, "recipe 'deepnorm' scales by depth itself"),
    ):
        with pytest.raises(error, match=text):
            make()


def test_models_of_transformers():
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 2}
    found, scales = stds(t5(**sizes), "deepnorm"), deepnorm_scales(3, 2)
    assert found["encoder.block.2.layer.0.SelfAttention.v.weight"] == xavier(16, 16, scales.beta)
    assert found["encoder.block.2.layer.0.SelfAttention.k.weight"] == xavier(16, 16)
    assert found["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == xavier(16, 24, scales.beta)
    assert found["decoder.block.0.layer.1.EncDecAttention.o.weight"] == xavier(16, 16, scales.decoder_beta)


def test_files():
    assert Recipe.from_dict({"extends": "deepnorm"}).rules == DEEPNORM.rules
    assert Recipe.from_dict(DEEPNORM.to_dict()) == DEEPNORM
    assert not {id(rule) for rule in DEEPNORM}.isdisjoint(map(id, TORCH))
