"""Megatron-core's own layers and models, with tensor parallelism on two processes without a GPU."""

import pytest

pytest.importorskip("megatron.core")

import torch
import torch.distributed as dist
from clients import assert_all_hold, assert_refused, run_cases, shared_folder
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from convinit_ext import Normal, fingerprint, init, init_model_, intercept, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, Kaiming, Rule

LAYERS = (
    tensor_parallel.ColumnParallelLinear,
    tensor_parallel.RowParallelLinear,
    tensor_parallel.VocabParallelEmbedding,
)
HE = [
    Rule(Kaiming(), module=LAYERS, parameter="weight"),
    Rule(Normal(0.0, 0.5), module=LAYERS, parameter="bias"),
    *TORCH,
]
SPLITS = {  # which part of a parameter a rank has: the dimension, and in how many pieces it lies there
    "column.weight": (0, 1),
    "column.bias": (0, 1),
    "gated.weight": (0, 2),
    "gated.bias": (0, 2),
    "row.weight": (1, 1),
    "words.weight": (0, 1),
    "word_embeddings.weight": (0, 1),
    "output_layer.weight": (0, 1),
    "linear_qkv.weight": (0, 1),
    "linear_proj.weight": (1, 1),
    "linear_fc1.weight": (0, 2),
    "linear_fc2.weight": (1, 1),
}


def initialize(tensor: int, **more: int) -> None:
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor, **more)


def config(tensor: int = 2, **more: object) -> TransformerConfig:
    sizes = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_query_groups": 2}
    return TransformerConfig(
        **sizes,
        ffn_hidden_size=24,
        gated_linear_unit=True,
        add_bias_linear=False,
        bias_activation_fusion=False,
        use_cpu_initialization=True,
        tensor_model_parallel_size=tensor,
        **more,
    )


class Layers(nn.Module):
    def __init__(self, group: dist.ProcessGroup | None = None, vocabulary: int = 12, **more: object) -> None:
        super().__init__()
        common = {"config": config(**more), "init_method": nn.init.normal_, "tp_group": group}
        parallel = tensor_parallel
        self.words = parallel.VocabParallelEmbedding(vocabulary, 6, **common)
        self.column = parallel.ColumnParallelLinear(6, 8, **common)
        self.gated = parallel.ColumnParallelLinear(6, 16, **common, stride=2)
        self.row = parallel.RowParallelLinear(
            8, 6, **common, bias=True, input_is_parallel=True, skip_bias_add=False
        )
        self.norm = nn.LayerNorm(6)


def cut(name: str, whole: Tensor) -> Tensor:
    """Return a rank's part of the whole, by Megatron's own way to gather it, turned round."""
    split = SPLITS.get(".".join(name.split(".")[-2:]))
    if split is None:
        return whole
    dim, stride = split
    pieces = torch.split(whole, whole.shape[dim] // (2 * stride), dim)
    return torch.cat(pieces[dist.get_rank() :: 2], dim)


def assert_cut_from(model: nn.Module, whole: nn.Module) -> None:
    expected = dict(whole.named_parameters())
    assert [name for name, _ in model.named_parameters()] == list(expected)
    for name, own in model.named_parameters():
        assert torch.equal(own, cut(name, expected[name])), name


def alone() -> dist.ProcessGroup:
    groups = [dist.new_group([rank]) for rank in range(2)]
    return groups[dist.get_rank()]


def layers_hold_their_parts() -> None:
    model, whole = Layers(), Layers(alone())
    for recipe in (HE, "llama"):
        if recipe == "llama":
            plan_model(model, 4, recipe).run(3)
        else:
            init_model_(model, 3, recipe, check_ranks=True)
        init_model_(whole, 3, recipe)
        assert_cut_from(model, whole)
        assert fingerprint(model) == fingerprint(whole)
        assert verify(model, 3, recipe, check_ranks=True) and verify(whole, 3, recipe)
        assert not verify(model, 4, recipe)
        folder = shared_folder()
        save_model(model, folder, 3, recipe)
        assert fingerprint(folder) == fingerprint(whole)


def gathered_outputs_are_of_one_process() -> None:
    model, whole = Layers(), Layers(alone())
    for own in (model, whole):
        init_model_(own, 3, HE)
    tokens = torch.arange(12)
    own, expected = (each.column(each.words(tokens))[0] for each in (model, whole))
    gathered = [torch.empty_like(own) for _ in range(2)]
    dist.all_gather(gathered, own.detach())
    torch.testing.assert_close(torch.cat(gathered, -1), expected)


def padded_vocabularies() -> None:
    model, whole = Layers(vocabulary=14), Layers(alone())
    for own in (model, whole):
        init_model_(own, 3, "llama")
    first = dist.get_rank() * 7
    rows = slice(first, min(first + 7, 12))
    assert torch.equal(model.words.weight[: rows.stop - first], whole.words.weight[rows])
    assert not torch.equal(model.words.weight[-1], model.words.weight[0])


def functions_and_blocks_of_intercept() -> None:
    model, whole = Layers(), Layers(alone())
    for layer in ("column", "gated", "row", "words"):
        weight, name = getattr(model, layer).weight, f"{layer}.weight"
        shape = getattr(whole, layer).weight.shape
        torch.manual_seed(3)
        init.xavier_normal_(weight)
        torch.manual_seed(3)
        assert torch.equal(weight, cut(name, init.xavier_normal_(torch.empty(shape)))), name
    for own in (model, whole):
        with intercept(own, seed=4):
            for layer in ("column", "gated", "row", "words"):
                nn.init.kaiming_uniform_(getattr(own, layer).weight)
                if layer in ("column", "gated"):
                    nn.init.uniform_(getattr(own, layer).bias)
            nn.init.zeros_(own.row.bias)
    assert_cut_from(model, whole)


def weights_that_do_not_say_that_they_are_cut() -> None:
    model = Layers(perform_initialization=False)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert_refused(
        r"'words\.weight': .*perform_initialization=False.*set_tensor_model_parallel_attributes",
        lambda: init_model_(model, 3, HE),
        lambda: fingerprint(model),
        lambda: verify(model, 3, HE),
    )
    assert all(map(torch.equal, before, model.parameters()))
    alike = Layers(alone(), perform_initialization=False)
    init_model_(alike, 3, HE)  # whole, and nobody has to say it
    for name, dim, stride in (("words", 0, 1), ("column", 0, 1), ("gated", 0, 2), ("row", 1, 1)):
        weight = getattr(model, name).weight
        tensor_parallel.set_tensor_model_parallel_attributes(weight, True, dim, stride)
    init_model_(model, 3, HE)
    assert_cut_from(model, alike)


def gpt(tensor: int, experts: int | None = None, **more: object) -> GPTModel:
    return GPTModel(
        config(tensor, num_moe_experts=experts, **more),
        get_gpt_layer_local_spec(experts, moe_grouped_gemm=False),
        vocab_size=32,
        max_sequence_length=16,
        position_embedding_type="rope",
    )


def whole_gpt(*arguments: object, **more: object) -> GPTModel:
    initialize(1)
    whole = gpt(1, *arguments, **more)
    init_model_(whole, 3, "gpt")
    return whole


def models_are_those_of_one_process() -> None:
    whole = whole_gpt()
    of_whole = fingerprint(whole)
    initialize(2)
    model = gpt(2)
    init_model_(model, 3, "gpt")
    assert_cut_from(model, whole)
    assert fingerprint(model) == of_whole and verify(model, 3, "gpt")


def experts_of_one_rank_are_whole() -> None:
    """Of the two tensor-parallel ranks: their layers have a process group of their own."""
    whole = whole_gpt(2)
    initialize(2, expert_tensor_parallel_size=1)
    model = gpt(2, 2, expert_tensor_parallel_size=1)
    init_model_(model, 3, "gpt")
    for (name, own), (_, other) in zip(model.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(own, other if ".experts." in name else cut(name, other)), name


def experts_of_several_ranks_need_their_names() -> None:
    whole = whole_gpt(4)
    expected = dict(whole.named_parameters())
    initialize(1, expert_model_parallel_size=2)
    model = gpt(1, 4, expert_model_parallel_size=2)
    said = r"local_experts\.0\.linear_fc1\.weight': it is of an expert that this rank alone has.*names="
    assert_refused(said, lambda: init_model_(model, 3, "gpt"))
    first = 2 * dist.get_rank()
    names = {
        f"decoder.layers.{layer}.mlp.experts.local_experts.{each}": (
            f"decoder.layers.{layer}.mlp.experts.local_experts.{first + each}"
        )
        for layer in range(2)
        for each in range(2)
    }
    init_model_(model, 3, "gpt", names=names)
    for name, own in model.named_parameters():
        module, _, _ = name.partition(".linear")
        as_whole = name.replace(module, names.get(module, module))
        assert torch.equal(own, expected[as_whole]), name


CASES = (
    layers_hold_their_parts,
    gathered_outputs_are_of_one_process,
    padded_vocabularies,
    functions_and_blocks_of_intercept,
    weights_that_do_not_say_that_they_are_cut,
    models_are_those_of_one_process,
    experts_of_one_rank_are_whole,
    experts_of_several_ranks_need_their_names,
)


def test_on_two_processes():
    assert_all_hold(__file__, CASES)


def main() -> None:
    dist.init_process_group("gloo")
    initialize(2)
    run_cases(CASES)


if __name__ == "__main__":
    main()
