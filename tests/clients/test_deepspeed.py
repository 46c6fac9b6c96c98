"""DeepSpeed itself: its ZeRO optimizers and placeholders, on two processes without a GPU."""

import pytest

pytest.importorskip("deepspeed")

import deepspeed
import torch
import torch.distributed as dist
from clients import assert_all_hold, assert_refused, assert_same_values, run_cases, shared_folder
from deepspeed.moe.layer import MoE
from torch import nn

from convinit_ext import (
    fingerprint,
    fingerprints,
    init,
    init_model_,
    intercept,
    plan_model,
    save_model,
    verify,
)

RECIPES = ("torch", "he", "llama")


class Net(nn.Module):
    """Sizes that two ranks do not divide, a padding row, a tied head, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5, padding_idx=7)
        self.up, self.norm, self.down = nn.Linear(5, 9), nn.LayerNorm(9), nn.Linear(9, 5)
        self.batch = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.batch(self.down(self.norm(self.up(self.embed(tokens))))))


def config(stage: int, **more: object) -> dict[str, object]:
    zero = {"stage": stage, **more}
    return {"train_batch_size": 2, "zero_optimization": zero}


def trained(stage: int) -> dict[str, object]:
    return config(stage) | {"optimizer": {"type": "Adam", "params": {"lr": 0.1, "torch_adam": True}}}


def partitioned(dtype: torch.dtype = torch.float32, **more: object) -> nn.Module:
    precision = {"bf16": {"enabled": dtype == torch.bfloat16}}
    with deepspeed.zero.Init(config_dict_or_path=config(3, **more) | precision):
        return Net()


def gathered(model: nn.Module, **more: object) -> object:
    return deepspeed.zero.GatheredParameters(list(model.parameters()), **more)


def whole_of(seed: int, recipe: str = "torch", dtype: torch.dtype = torch.float32) -> nn.Module:
    whole = Net().to(dtype)
    init_model_(whole, seed, recipe)
    return whole


def placeholders_are_filled_as_one_process_fills() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = partitioned(dtype)
        plans = {recipe: plan_model(model, 5, recipe) for recipe in RECIPES}
        for recipe in RECIPES:
            whole = whole_of(3, recipe, dtype)
            if recipe == "he":
                plans[recipe].run(3)
            else:
                init_model_(model, 3, recipe, check_ranks=True)
            assert all(parameter.numel() == 0 for parameter in model.parameters())
            with gathered(model):
                assert_same_values(model, whole)
            buffers = [*model.buffers()][:2]
            assert buffers[0].eq(0).all() and buffers[1].eq(1).all()
            if dtype == torch.float32:  # DeepSpeed casts buffers too, in a way of its own
                assert fingerprint(model) == plans[recipe].fingerprint(3) == fingerprint(whole)
                assert fingerprints(model) == fingerprints(whole)
            assert verify(model, 3, recipe, check_ranks=True)
            assert not verify(model, 4, recipe)
        assert_refused("keeps its dtype", lambda model=model: init_model_(model, 3, dtype=torch.float64))


def ranges_of_a_group() -> None:
    """Of one rank each, and in memory of another kind."""
    groups = [dist.new_group([rank]) for rank in range(2)]
    with deepspeed.zero.Init(data_parallel_group=groups[dist.get_rank()], config_dict_or_path=config(3)):
        alone = Net()
    for model in (alone, partitioned(offload_param={"device": "cpu"})):
        init_model_(model, 3)
        with gathered(model):
            assert_same_values(model, whole_of(3))


def a_checkpoint_is_of_the_whole() -> None:
    model, folder, whole = partitioned(), shared_folder(), whole_of(3)
    save_model(model, folder, 3)
    assert fingerprint(folder) == fingerprint(whole) and verify(folder, 3, model=whole)


def gathered_parameters() -> None:
    model = partitioned()
    for seed, modifier_rank in enumerate((None, 0, 1)):
        whole = whole_of(seed)
        with gathered(model, modifier_rank=modifier_rank):
            init_model_(model, seed)
            assert fingerprint(model) == fingerprint(whole)
        with gathered(model):
            assert_same_values(model, whole)


def a_second_copy() -> None:
    """That of ZeRO++. Refused, and the way that is named."""
    model = partitioned(zero_hpz_partition_size=2)
    said = r"'embed\.weight'.*with a second copy, ds_secondary_tensor; .*GatheredParameters"
    assert_refused(said, lambda: init_model_(model, 3), lambda: fingerprint(model))
    with gathered(model, modifier_rank=0):
        init_model_(model, 3)
    with gathered(model):
        assert_same_values(model, whole_of(3))


def functions_fill_placeholders() -> None:
    model, whole = partitioned(), Net()
    for name, arguments in (
        ("normal_", {}),
        ("kaiming_uniform_", {"nonlinearity": "relu"}),
        ("xavier_normal_", {}),
        ("trunc_normal_", {"std": 0.5}),
        ("constant_", {"val": 3.0}),
        ("eye_", {}),
        ("orthogonal_", {}),
        ("sparse_", {"sparsity": 0.5}),
    ):
        for own in (model, whole):
            torch.manual_seed(3)
            getattr(init, name)(own.up.weight, **arguments)
        with gathered(model):
            assert torch.equal(model.up.weight, whole.up.weight), name


def init_weights(model: nn.Module) -> nn.Module:
    """As the code of models does it."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            nn.init.ones_(module.weight)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.constant_(module.bias, 0.5)
    return model


def blocks_of_intercept() -> None:
    """While a model is built, and around the code that fills its placeholders."""
    with intercept(seed=3):
        whole = Net()
    with deepspeed.zero.Init(config_dict_or_path=config(3)), intercept(seed=3):
        model = Net()
    with gathered(model):
        assert_same_values(model, whole)
    for own in (model, whole):
        with intercept(own, seed=4):
            init_weights(own)
    with gathered(model):
        assert_same_values(model, whole)


def optimizers_would_bring_old_values_back() -> None:
    for stage in (1, 2, 3):
        model = Net()
        init_model_(model, 3)
        engine, *_ = deepspeed.initialize(model=model, config=trained(stage))
        assert fingerprint(engine) == fingerprint(model) == fingerprint(whole_of(3))
        assert verify(engine, 3)
        assert_refused("DeepSpeed's optimizer holds a copy", lambda m=model: init.normal_(m.up.weight))
        said = r"'(module\.)?embed\.weight': DeepSpeed's optimizer holds a copy.*before deepspeed\.initialize"
        assert_refused(said, lambda m=engine: init_model_(m, 4), lambda m=model: plan_model(m, 4))
        assert verify(engine, 3)


def engines_without_an_optimizer() -> None:
    """For inference: filled before and after a forward pass."""
    engine, *_ = deepspeed.initialize(model=Net(), config=config(3))
    engine.eval()
    for seed in (3, 4):
        init_model_(engine, seed)
        whole = whole_of(seed).eval()
        assert fingerprint(engine) == fingerprint(whole)
        tokens = torch.arange(11)
        assert torch.equal(engine(tokens), whole(tokens))


def parts_of_automatic_tensor_parallelism() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 12}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    parallel = {"train_micro_batch_size_per_gpu": 1, "tensor_parallel": {"autotp_size": 2}}
    engine, *_ = deepspeed.initialize(model=model, config=parallel | {"zero_optimization": {"stage": 0}})
    said = r"q_proj\.weight': it is a part .* as DeepSpeed's AutoTP cuts it; .* before deepspeed\.initialize"
    assert_refused(said, lambda: init_model_(engine, 3, "llama"), lambda: fingerprint(model))


def experts_of_several_ranks_need_their_names() -> None:
    def build(ep_size: int) -> nn.Module:
        return MoE(hidden_size=4, expert=nn.Linear(4, 4), num_experts=4, ep_size=ep_size)

    whole, model, rank = build(1), build(2), dist.get_rank()
    init_model_(whole, 3)
    said = r"experts\.0\.weight': it is of an expert that this rank alone has.*names="
    assert_refused(said, lambda: init_model_(model, 3))
    experts = "deepspeed_moe.experts.deepspeed_experts."
    names = {f"{experts}{each}": f"{experts}{2 * rank + each}" for each in range(2)}
    init_model_(model, 3, names=names)
    for mine, other in ((0, 2 * rank), (1, 2 * rank + 1)):
        own, expected = model.get_submodule(f"{experts}{mine}"), whole.get_submodule(f"{experts}{other}")
        assert_same_values(own, expected)


CASES = (
    placeholders_are_filled_as_one_process_fills,
    ranges_of_a_group,
    a_checkpoint_is_of_the_whole,
    gathered_parameters,
    functions_fill_placeholders,
    blocks_of_intercept,
    optimizers_would_bring_old_values_back,
    engines_without_an_optimizer,
    a_second_copy,
    experts_of_several_ranks_need_their_names,
    parts_of_automatic_tensor_parallelism,
)


def test_on_two_processes():
    assert_all_hold(__file__, CASES)


def main() -> None:
    deepspeed.ops.__compatible_ops__.clear()  # it would compile operators of its own for minutes
    deepspeed.init_distributed("gloo")
    run_cases(CASES)


if __name__ == "__main__":
    main()
