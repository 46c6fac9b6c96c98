"""Run as ranks (test_on_processes.py): whole models on every rank of process meshes, over gloo.

Every case builds the model once in one piece and once sharded, and compares them to the bit, parameter by
parameter: the gathered whole, and what this rank holds.
"""

import copy
import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from filling import assert_same_bits
from real_models import convnextv2, llama
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from convinit_ext import Constant, fingerprint, fingerprints, init_model_, verify
from convinit_ext.recipes import TORCH, Recipe, Rule
from convinit_ext.recipes._initialisers import ONES, ZEROS

SEED = 2**63 + 5
NORMS = [Rule(ONES, name="*norm*.weight"), Rule(ZEROS, name="*norm*.bias")]
RECIPE = Recipe((*NORMS, Rule(ZEROS, name="*.grn.*"), *TORCH), allow_unused=True)
if WITH_TRANSFORMERS := importlib.util.find_spec("transformers") is not None:
    llama(), convnextv2()  # imports what they are made of, before this process is forked
Build = Callable[[], nn.Module]
Cut = Callable[[nn.Module], object]


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Small(nn.Module):
    """Uneven sizes, a tied head, a padding row, convolutions, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(19, 13, padding_idx=4)
        self.blocks = nn.ModuleList([Block(13, 24) for _ in range(2)])
        self.conv = nn.Conv1d(13, 7, 3, padding=1)
        self.norm = nn.BatchNorm1d(7)
        self.back = nn.ConvTranspose1d(7, 13, 1)
        self.head = nn.Linear(13, 19, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.back(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(x)


def small_input() -> Tensor:
    return torch.arange(4 * 6).reshape(4, 6) % 19


def check(
    name: str,
    build: Build,
    cut: Cut,
    meta: bool,
    recipe: object = "torch",
    by_shard: bool = True,
    **more: object,
) -> nn.Module:
    whole = build()
    init_model_(whole, SEED, recipe, fan="torch", dtype=more.get("dtype"))
    expected = {name: parameter.detach() for name, parameter in whole.named_parameters()}
    with torch.device("meta" if meta else "cpu"):
        model = build()
    cut(model)
    init_model_(model, SEED, recipe, fan="torch", **more)
    sharded = dict(model.named_parameters())
    assert sharded.keys() == expected.keys()
    assert any(isinstance(parameter, DTensor) for parameter in sharded.values())
    for path, parameter in sharded.items():
        want = expected[path]
        if isinstance(parameter, DTensor):
            assert_same_bits(parameter.full_tensor(), want, path)
            if by_shard:
                part = distribute_tensor(
                    want, parameter.device_mesh, parameter.placements, src_data_rank=None
                )
                assert_same_bits(parameter.to_local(), part.to_local(), path)
        else:
            assert_same_bits(parameter, want, path)
    assert fingerprint(model) == fingerprint(whole)
    assert fingerprints(model) == fingerprints(whole)
    return model


def fsdp(mesh: DeviceMesh, **more: object) -> Cut:
    def cut(model: nn.Module) -> None:
        for child in model.modules():
            if isinstance(child, Block):
                fully_shard(child, mesh=mesh, **more)
        fully_shard(model, mesh=mesh, **more)

    return cut


def tensor_parallel(mesh: DeviceMesh) -> Cut:
    def cut(model: nn.Module) -> None:
        for block in model.blocks:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})

    return cut


def both(mesh: DeviceMesh) -> Cut:
    def cut(model: nn.Module) -> None:
        tensor_parallel(mesh["tp"])(model)
        fsdp(mesh["dp"])(model)

    return cut


def forward_agrees(model: nn.Module) -> None:
    """Sharding machinery and all: the model computes what the whole one computes."""
    whole = Small()
    init_model_(whole, SEED, fan="torch")
    torch.testing.assert_close(model(small_input()), whole(small_input()))


def fully_sharded(size: int) -> None:
    mesh = init_device_mesh("cpu", (size,))
    for meta in (False, True):
        forward_agrees(check(f"FSDP2, meta={meta}", Small, fsdp(mesh), meta))
    check("FSDP2, meta to bfloat16", Small, fsdp(mesh), True, "he", dtype=torch.bfloat16)
    check("FSDP2 to float64", Small, fsdp(mesh), False, "he", dtype=torch.float64)
    offload = CPUOffloadPolicy(pin_memory=False)
    check("FSDP2 with CPU offload", Small, fsdp(mesh, offload_policy=offload), True, device="cpu")
    hybrid = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("replicate", "shard"))
    model = check("HSDP", Small, fsdp(hybrid), True)
    forward_agrees(model)
    copies_count_on_each_rank(size)
    ranks_outside_of_a_mesh(size)


def copies_count_on_each_rank(size: int) -> None:
    """With a tensor beside them that is cut, and without."""
    mesh = init_device_mesh("cpu", (size,))
    mine = torch.full((3,), float(dist.get_rank() == size - 1))
    copy = DTensor.from_local(mine, mesh, [Replicate()], run_check=False)
    cut = DTensor.from_local(torch.ones(2), mesh, [Shard(0)])
    for take in (fingerprint, fingerprints):
        assert take({"copy": copy}) == take({"copy": mine})
        assert take({"copy": copy, "cut": cut}) == take({"copy": mine, "cut": torch.ones(2 * size)})


def ranks_outside_of_a_mesh(size: int) -> None:
    """No rank is left waiting for one that has nothing to say."""
    cut = DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (size,)), [Shard(0)])
    pair = DeviceMesh("cpu", [0, 1])
    for placement, num_rows in ((Shard(0), 4), (Replicate(), 2)):
        local = torch.ones(2 if dist.get_rank() < 2 else 0)
        part = DTensor.from_local(local, pair, [placement], run_check=False, shape=(num_rows,), stride=(1,))
        here = rf"^{size - 2} ranks could not read what it holds of the tensors"
        outside = r"^DTensor 'part' is on ranks \[0, 1\], and this rank is none of them, and holds nothing"
        for take in (fingerprint, fingerprints):
            with pytest.raises(RuntimeError, match=here if dist.get_rank() < 2 else outside):
                take({"cut": cut, "part": part})


def both_ways(size: int) -> None:
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))
    check("tensor parallel", Small, tensor_parallel(mesh["tp"]), False)
    for meta in (False, True):
        forward_agrees(check(f"FSDP2 and tensor parallel, meta={meta}", Small, both(mesh), meta))


def uneven_rows(size: int) -> None:
    """More data than tensor ranks, and rows that neither divides."""
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("dp", "tp"))

    def cut(model: nn.Module) -> None:
        parallelize_module(model[0], mesh["tp"], ColwiseParallel())
        parallelize_module(model[1], mesh["tp"], RowwiseParallel())
        fully_shard(model, mesh=mesh["dp"])

    for rows in (9, 13, 17):

        def build(rows: int = rows) -> nn.Module:
            return nn.Sequential(nn.Linear(4, rows, bias=False), nn.Linear(rows, 5, bias=False))

        # distribute_tensor deals uneven rows out in another order than FSDP2, and full_tensor knows FSDP2's
        model = check(f"{rows} uneven rows", build, cut, True, by_shard=False)
        whole = build()
        init_model_(whole, SEED, fan="torch")
        data, tensor = mesh.get_coordinate()
        mine = whole[0].weight.detach().chunk(2)[tensor].chunk(size // 2)[data:][:1]
        local = model[0].weight.to_local()
        assert_same_bits(local, mine[0] if mine else local[:0], rows)


def replicas() -> None:
    """DDP without its broadcast: the ranks agree by themselves."""
    model = DistributedDataParallel(Small(), init_sync=False)
    init_model_(model, SEED)
    for parameter in model.parameters():
        found = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(found, parameter.detach())
        for other in found:
            assert_same_bits(other, parameter)


def seeds_that_differ(size: int) -> None:
    model, same = nn.Linear(3, 3), nn.Linear(3, 3)
    same.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=rf"it is 0 on ranks? 0.*; 9 on rank {size - 1}$"):
        init_model_(model, 9 if dist.get_rank() == size - 1 else 0, check_ranks=True)
    for wrong, error in (("0", TypeError), (2**64, ValueError)):
        mine = dist.get_rank() == 1
        says = "^seed must be" if mine else r"it is 0 on ranks? 0.*; none \(seed must be .*\) on rank 1$"
        with pytest.raises(error if mine else ValueError, match=says):
            init_model_(model, wrong if mine else 0, check_ranks=True)
    assert_same_bits(model.weight, same.weight)
    init_model_(model, 5, check_ranks=True)


def arguments_that_differ(size: int) -> None:
    model, is_last = nn.Linear(3, 3), dist.get_rank() == size - 1
    before = model.weight.detach().clone()
    own = [Rule(Constant(0.5), parameter="bias"), *TORCH]
    other = [Rule(Constant(0.25), parameter="bias"), *TORCH]
    by_function = [Rule(lambda target: Constant(0.5), parameter="bias"), *TORCH]
    by_another = [Rule(lambda target: Constant(0.25), parameter="bias"), *TORCH]
    differing = (
        ("recipe", {"recipe": "torch"}, {"recipe": "he"}),
        ("rules of the recipe", {"recipe": own}, {"recipe": other}),
        ("rules of the recipe", {"recipe": by_function}, {"recipe": by_another}),
        ("fan", {"fan": "true"}, {"fan": "torch"}),
        ("dtype", {}, {"dtype": torch.float64}),
        ("names", {"names": {"": "a"}}, {"names": {"": "b"}}),
    )
    for what, theirs, mine in differing:
        with pytest.raises(ValueError, match=f"^the {what} must be the same on all ranks"):
            init_model_(model, 1, check_ranks=True, **(mine if is_last else theirs))
        if "names" not in what:
            with pytest.raises(ValueError, match=f"^the {what} must be the same on all ranks"):
                verify(model, 1, check_ranks=True, **(mine if is_last else theirs))
        assert_same_bits(model.weight, before)
        init_model_(copy.deepcopy(model), 1, check_ranks=True, **mine)


def transformers_models(size: int) -> None:
    if not WITH_TRANSFORMERS:
        return
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))

    def every_layer(mesh: DeviceMesh, kinds: tuple[str, ...]) -> Cut:
        def cut(model: nn.Module) -> None:
            for child in model.modules():
                if type(child).__name__ in kinds:
                    fully_shard(child, mesh=mesh)
            fully_shard(model, mesh=mesh)

        return cut

    def llama_both(model: nn.Module) -> None:
        for layer in model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for module in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                parallelize_module(module, mesh["tp"], ColwiseParallel())
            for module in (attention.o_proj, mlp.down_proj):
                parallelize_module(module, mesh["tp"], RowwiseParallel())
        every_layer(mesh["dp"], ("LlamaDecoderLayer",))(model)

    def build_llama() -> nn.Module:
        return llama().model

    def build_convnext() -> nn.Module:
        return convnextv2().convnextv2

    flat = init_device_mesh("cpu", (size,))
    check("Llama, FSDP2", build_llama, every_layer(flat, ("LlamaDecoderLayer",)), False, RECIPE)
    check("Llama, FSDP2 and tensor parallel", build_llama, llama_both, False, RECIPE)
    check("ConvNeXtV2, FSDP2", build_convnext, every_layer(flat, ("ConvNextV2Stage",)), False, RECIPE)


def models() -> None:
    size = dist.get_world_size()
    fully_sharded(size)
    both_ways(size)
    uneven_rows(size)
    replicas()
    seeds_that_differ(size)
    arguments_that_differ(size)
    transformers_models(size)


CASES = (models,)
