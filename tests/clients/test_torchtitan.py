"""torchtitan's own models and parallelisms: from the meta device to_empty(), then init_model_."""

import os
import re

import pytest

pytest.importorskip("torchtitan")

import torch
import torchtitan.tools.utils

torchtitan.tools.utils.device_type, torchtitan.tools.utils.device_module = "cpu", torch.cpu  # otherwise CUDA

import torch.distributed as dist  # noqa: E402
from clients import assert_all_hold, run_cases, shared_folder  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig  # noqa: E402
from torchtitan.distributed import ParallelDims  # noqa: E402
from torchtitan.models import deepseek_v3, llama3  # noqa: E402
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm  # noqa: E402
from torchtitan.models.deepseek_v3.sharding import set_deepseek_v3_sharding_config  # noqa: E402
from torchtitan.models.llama3.sharding import set_llama3_sharding_config  # noqa: E402

from convinit_ext import fingerprint, init_model_, plan_model, save_model, verify  # noqa: E402
from convinit_ext.recipes import depth_scaled  # noqa: E402

SIZE, VOCABULARY = 32, 64


def around(module: object) -> dict[str, object]:
    """Return what every model has beside its layers."""
    return {
        "dim": SIZE,
        "vocab_size": VOCABULARY,
        "tok_embeddings": Embedding.Config(
            num_embeddings=VOCABULARY, embedding_dim=SIZE, param_init=module._EMBEDDING_INIT
        ),
        "norm": RMSNorm.Config(normalized_shape=SIZE, param_init=module._NORM_INIT),
        "lm_head": Linear.Config(
            in_features=SIZE, out_features=VOCABULARY, param_init=module._output_linear_init(SIZE)
        ),
    }


def llama(fuse: bool = True, tie: bool = False) -> object:
    layers = llama3._build_llama3_layers(
        fuse_qkv=fuse,
        n_layers=2,
        dim=SIZE,
        n_heads=4,
        n_kv_heads=2,
        hidden_dim=48,
        rope=ComplexRoPE.Config(dim=8, max_seq_len=16, theta=500000, scaling="llama"),
        attn_backend="flex",
    )
    config = llama3.Llama3Model.Config(**around(llama3), layers=layers, enable_weight_tying=tie)
    set_llama3_sharding_config(config, enable_sp=True)
    return config


def deepseek(enable_ep: bool = False) -> object:
    layers = deepseek_v3._build_dsv3_layers(
        n_layers=2,
        n_dense_layers=1,
        dim=SIZE,
        n_heads=4,
        q_lora_rank=0,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        mscale=0.7,
        dense_hidden_dim=48,
        moe_hidden_dim=24,
        num_experts=4,
        num_shared_experts=1,
        router_top_k=2,
        router_score_func="softmax",
        attn_backend="flex",
        moe_comm_backend="standard",
        non_blocking_capacity_factor=None,
        rope=ComplexRoPE.Config(dim=8, max_seq_len=16, theta=10000.0, scaling="none"),
    )
    config = deepseek_v3.DeepSeekV3Model.Config(**around(deepseek_v3), layers=layers)
    set_deepseek_v3_sharding_config(config, enable_sp=True, enable_ep=enable_ep)
    return config


@pytest.mark.parametrize("make", [llama, deepseek], ids=["llama3", "deepseek_v3"])
def test_depth_scaled_has_torchtitan_s_stds(make):
    with torch.device("meta"):
        model = make().build()
    scaled = re.compile(r"[.](wo|w2|w3|w2_EDF|w3_EFD|gate)([.]weight)?$")
    plan = plan_model(model, recipe=depth_scaled("llama", by="layer", weights=scaled))
    found = {row.name: row.std for row in plan.report.rows if row.name.startswith("layers.")}
    wanted = {
        f"{path}.{leaf}": init.keywords["std"]
        for path, module in model.layers.named_modules(prefix="layers")
        for leaf, init in (module.__dict__.get("_param_init") or {}).items()
        if "std" in getattr(init, "keywords", ())
    }
    assert len(set(wanted.values())) == 3 and {name: found[name] for name in wanted} == wanted


def parallel(config: object, backend: str = "partial_dtensor", **sizes: int) -> nn.Module:
    """Return a model on the meta device, parallelised as torchtitan's trainer does it."""
    with torch.device("meta"):
        model = config.build()
    ones = dict.fromkeys(("dp_replicate", "dp_shard", "cp", "tp", "pp", "ep"), 1)
    dims = ParallelDims(**ones | sizes, world_size=dist.get_world_size(), spmd_backend=backend)
    is_llama = isinstance(model, llama3.Llama3Model)
    (llama3.parallelize_llama if is_llama else deepseek_v3.parallelize_deepseekv3)(
        model,
        parallel_dims=dims,
        training=TrainingConfig(),
        parallelism=ParallelismConfig(spmd_backend=backend),
        compile_config=CompileConfig(),
        ac_config=None,
        dump_folder="",
    )
    return model


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_as_one_process(config: object, recipe: str, is_empty: bool = True, **more: object) -> None:
    model, whole = parallel(config, **more), config.build()
    init_model_(whole, 3, recipe)
    if is_empty:
        model.to_empty(device="cpu")
    report = init_model_(model, 3, recipe, check_ranks=True)
    assert len(report.rows) == len(list(whole.parameters()))
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(whole, kind)())
        found = dict(getattr(model, kind)())
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(full(tensor), expected[name]), name
    assert any(
        isinstance(each, DTensor) and each.to_local().shape != each.shape for each in model.parameters()
    )
    assert fingerprint(model) == fingerprint(whole)
    assert verify(model, 3, recipe, check_ranks=True)
    folder = shared_folder()
    if any("wqkv" in name for name, _ in model.named_parameters()):  # state dicts have its three parts
        with pytest.raises(
            (ValueError, RuntimeError), match=r"has .*wq\.weight.* in place of .*wqkv\.weight"
        ):
            save_model(model, folder, 3, recipe)
    else:
        save_model(model, folder, 3, recipe)
        assert fingerprint(folder) == fingerprint(whole)


def llama_under_fsdp2() -> None:
    for recipe in ("torch", "llama", "gpt"):
        assert_as_one_process(llama(), recipe, dp_shard=2)
    assert_as_one_process(llama(fuse=False), "he", is_empty=False, dp_shard=2)


def llama_under_tensor_parallelism() -> None:
    for fuse in (False, True):
        assert_as_one_process(llama(fuse), "llama", tp=2)


def tied_llama_under_fsdp2() -> None:
    assert_as_one_process(llama(tie=True), "llama", dp_shard=2)


def llama_of_dtensors_alone() -> None:
    assert_as_one_process(llama(), "llama", backend="full_dtensor", dp_shard=2)


def experts_under_fsdp2() -> None:
    assert_as_one_process(deepseek(), "llama", is_empty=False, dp_shard=2)
    model = parallel(deepseek(), dp_shard=2).to_empty(device="cpu")
    bias = model.get_buffer("layers.1.moe.expert_bias_E")
    bias.data.fill_(7.0)  # not counted as written; new memory may hold the right zeros by chance
    with pytest.warns(UserWarning, match=r"nobody can rebuild.*: layers\.1\.moe\.expert_bias_E;"):
        init_model_(model, 3, "llama")


def experts_of_several_ranks() -> None:
    assert_as_one_process(deepseek(enable_ep=True), "llama", is_empty=False, dp_shard=2, ep=2)


def llama_both_ways() -> None:
    assert_as_one_process(llama(), "llama", dp_shard=2, tp=2)
    assert_as_one_process(llama(fuse=False), "torch", dp_replicate=2, dp_shard=2)


def experts_both_ways() -> None:
    assert_as_one_process(deepseek(enable_ep=True), "gpt", is_empty=False, dp_shard=2, tp=2, ep=2)


CASES = (
    llama_under_fsdp2,
    llama_under_tensor_parallelism,
    tied_llama_under_fsdp2,
    llama_of_dtensors_alone,
    experts_under_fsdp2,
    experts_of_several_ranks,
)


OF_FOUR = (llama_both_ways, experts_both_ways)


@pytest.mark.parametrize(("num_processes", "cases"), [(2, CASES), (4, OF_FOUR)])
def test_on_processes(num_processes, cases):
    assert_all_hold(__file__, cases, num_processes)


def main() -> None:
    run_cases(CASES if os.environ["WORLD_SIZE"] == "2" else OF_FOUR)
