"""On a GPU: the bits of the CPU, one launch for a list, and PyTorch's rules for generators and memory.

The tests of values, layouts, boxes and golden values run on every device there is; these are CUDA's own.
"""

import json

import pytest
import torch
from command_models import SMALL
from filling import DTYPES, KEY, SHIFTED, Backend, assert_same_bits, key_tensor
from gpu import MANY, NEEDS_A_GPU, RANDOM, arguments, assert_equal_to_cpu, launches, network, rows, small_rows
from layouts import LARGE, LARGE_LAYOUTS, LARGE_SHAPE, LAYOUTS, SENTINEL
from states import assert_same_state
from torch import nn

from convinit_ext import Key, Normal, Shard, Uniform, init, init_model_
from convinit_ext.__main__ import main
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext._engine import _ops as ops

pytestmark = NEEDS_A_GPU
CPU, GPU = Backend("cpu"), Backend("cuda")

# The same bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHIFTED)
def test_large_tensors_equal_the_cpus(dtype, name):
    for start in (0, 3, 2**34 - 501):
        filled = GPU.fill((LARGE,), SHIFTED[name], dtype, start=start)
        assert_same_bits(filled, CPU.fill((LARGE,), SHIFTED[name], dtype, start=start), start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_equal_the_cpus(dtype):
    for layout, (shape, view) in LAYOUTS.items():
        for distribution in SHIFTED.values():
            on_gpu, on_cpu = (backend.empty(shape, dtype).fill_(SENTINEL) for backend in (GPU, CPU))
            GPU.fill_(view(on_gpu), distribution)
            CPU.fill_(view(on_cpu), distribution)
            assert_same_bits(on_gpu, on_cpu, (layout, distribution))


@pytest.mark.parametrize("view", LARGE_LAYOUTS.values(), ids=LARGE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_layouts_equal_the_cpus(dtype, view):
    shape = LARGE_SHAPE
    for name in RANDOM:
        on_gpu, on_cpu = (view(backend.empty(shape, dtype).fill_(SENTINEL)) for backend in (GPU, CPU))
        assert_same_bits(GPU.fill_(on_gpu, SHIFTED[name]), CPU.fill_(on_cpu, SHIFTED[name]), name)


@pytest.mark.parametrize("num_tensors", [None, 1, 2, 5, 10, 20, 30, 50, 100, 2000])
def test_a_list_equals_the_cpus(num_tensors):
    """Of every dtype and distribution; of any length: short ones go as a kernel parameter, long ones through
    memory.
    """
    chosen = rows() if num_tensors is None else small_rows(num_tensors)
    given = arguments("cuda", chosen)
    assert launches(lambda: ops.fill_(*given)) == 1
    assert_equal_to_cpu(given[0], chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_more_than_2_32_elements(dtype, name):
    size = 2**32 + 10_007
    if torch.cuda.mem_get_info()[0] < 1.1 * size * DTYPES[dtype].itemsize:
        pytest.skip("needs more free memory on the GPU")
    huge = GPU.fill((size,), SHIFTED[name], dtype)
    for start in (0, 2**31 - 2048, 2**32 - 2048, size - 4096, 1_234_567_891, 4_000_000_007):
        expected = CPU.fill((4096,), SHIFTED[name], dtype, start=start)
        assert_same_bits(huge[start : start + 4096], expected, start)


PLAIN = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_")
PLAIN += ("lecun_normal_", "lecun_uniform_", "orthogonal_", "eye_", "identity_")
DROP_IN = {name: {} for name in PLAIN} | {
    "kaiming_normal_": {"mode": "fan_out"},
    "variance_scaling_": {"mode": "fan_avg", "distribution": "truncated_normal"},
    "sparse_": {"sparsity": 0.3},
    "constant_": {"val": 0.25},
}
NOT_RANDOM = ("eye_", "identity_", "constant_")


@pytest.mark.parametrize("keyed", [False, True], ids=["generator", "key"])
@pytest.mark.parametrize("function", DROP_IN)
def test_drop_in_functions_equal_the_cpus(function, keyed):
    """Also without a key: it comes from PyTorch's CPU generator whatever the device."""
    given = DROP_IN[function] | ({"key": Key(7, "w")} if keyed and function not in NOT_RANDOM else {})
    filled = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        tensor = torch.empty(40, 24, device=device)
        assert getattr(init, function)(tensor, **given) is tensor
        filled.append((tensor, torch.get_rng_state()))
    assert_same_bits(filled[1][0], filled[0][0])
    assert torch.equal(filled[0][1], filled[1][1])


def test_convolutions_by_pytorchs_own_functions_equal_the_cpus():
    for function in (init.dirac_, init.identity_, init.delta_orthogonal_):
        on_cpu, on_gpu = torch.empty(8, 4, 3, 3), torch.empty(8, 4, 3, 3, device="cuda")
        for tensor in (on_cpu, on_gpu):
            torch.manual_seed(5)
            function(tensor)
        assert_same_bits(on_gpu, on_cpu, function)


@pytest.mark.parametrize("function", ["kaiming_normal_", "uniform_", "trunc_normal_", "orthogonal_"])
def test_shards_equal_the_cpus(function):
    whole = getattr(init, function)(torch.empty(12, 10), key=Key(0, "w"))
    part = torch.empty(5, 4, device="cuda")
    getattr(init, function)(part, key=Key(0, "w"), shard=Shard(shape=(12, 10), offset=(3, 2)))
    assert_same_bits(part, whole[3:8, 2:6])


# Models


@pytest.mark.parametrize("recipe", ["torch", "he", "xavier"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_models_equal_the_cpus(recipe, dtype):
    expected, moved = network(), network().cuda()
    with torch.device("meta"):
        meta = network()
    init_model_(expected, 11, recipe, dtype=dtype)
    assert launches(lambda: init_model_(moved, 11, recipe, dtype=dtype)) == 1
    assert launches(lambda: init_model_(meta, 11, recipe, device="cuda", dtype=dtype)) == 1
    assert {tensor.device.type for tensor in (*meta.parameters(), *meta.buffers())} == {"cuda"}
    assert_same_state(moved, expected.state_dict())
    assert_same_state(meta, expected.state_dict())


@pytest.mark.parametrize("num_layers", [4, 500])
def test_a_model_on_the_cpu_and_a_gpu_is_one_launch(num_layers):
    expected, model = (nn.Sequential(*(nn.Linear(33, 33) for _ in range(num_layers))) for _ in range(2))
    for layer in model[::2]:
        layer.cuda()
    init_model_(expected, 11)
    assert launches(lambda: init_model_(model, 11)) == 1
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "cuda"}
    assert_same_state(model, expected.state_dict())


def test_the_command_line(capsys):
    assert main(["run", "--model", SMALL, "--device", "cuda", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["environment"]["gpus"].startswith(torch.cuda.get_device_name(0))
    assert {case["ratio"] > 0 for case in result["comparison"]["cases"]} == {True}
    for recipe in ("he", "torch"):
        assert main(["run", "--model", SMALL, "--device", "cuda", "--recipe", recipe, "--no-compare"]) == 0


# Generators


def test_a_cuda_generator_gives_keys_by_its_seed_and_offset():
    first, second = (torch.Generator("cuda").manual_seed(3) for _ in range(2))
    tensors = [torch.empty(100, device="cuda") for _ in range(3)]
    init.normal_(tensors[0], generator=first)
    assert first.get_offset() == 4
    init.normal_(tensors[1], generator=first)
    assert first.get_offset() == 8
    second.set_offset(4)
    init.normal_(tensors[2], generator=second)
    assert not torch.equal(tensors[0], tensors[1])
    assert_same_bits(tensors[1], tensors[2])
    init.normal_(torch.empty(0, 3, device="cuda"), generator=first)
    assert first.get_offset() == 8


def test_a_cuda_generator_is_refused_for_a_cpu_tensor():
    tensor = torch.zeros(4)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type"):
        init.normal_(tensor, generator=torch.Generator("cuda"))
    assert not tensor.any()


# PyTorch's rules


def test_versions_gradients_and_inference_mode():
    weight = nn.Parameter(torch.zeros(8, 8, device="cuda"))
    init.normal_(weight)
    assert weight.is_leaf and weight.requires_grad and weight._version == 1
    with torch.inference_mode():
        tensor = torch.zeros(8, 8, device="cuda")
        init.normal_(tensor, key=Key(0, "w"))
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        init.normal_(tensor)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inside inductor
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_graph_break(backend):
    compiled = torch.compile(lambda t: init.normal_(t, key=Key(0, "w")) * 2, backend=backend, fullgraph=True)
    expected = init.normal_(torch.empty(33, 5), key=Key(0, "w")) * 2
    assert_same_bits(compiled(torch.empty(33, 5, device="cuda")), expected)


def test_deterministic_mode():
    tensors, keys, kinds = arguments("cuda", small_rows(MANY))
    torch.use_deterministic_algorithms(True)
    try:
        ops.fill_(tensors, keys, kinds)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal_to_cpu(tensors, small_rows(MANY))


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (lambda: torch.zeros(3, dtype=torch.int32, device="cuda"), UnsupportedTensorError, "torch.int32"),
        (lambda: torch.zeros(1, 3, device="cuda").expand(3, 3), RuntimeError, "single memory location"),
        (lambda: torch.eye(3, device="cuda").to_sparse(), UnsupportedTensorError, "torch.sparse_coo"),
        (lambda: torch.zeros(3, device="meta"), RuntimeError, "1 of 3 tensors are on the meta device"),
    ],
    ids=["integer", "expanded", "sparse", "meta"],
)
def test_nothing_is_written_if_a_tensor_is_refused(bad, error, said):
    innocent = [torch.zeros(100, device="cuda"), torch.zeros(100)]
    keys = key_tensor((1, 2), (3, 4), (5, 6))
    with pytest.raises(error, match=said):
        ops.fill_([*innocent, bad()], keys, [Normal()] * 3)
    assert not any(tensor.any() for tensor in innocent)


def test_too_little_memory_for_a_model_leaves_it_as_it_was():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(1 << 21, 1 << 21))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        init_model_(model, device="cuda")
    assert model[0].weight.is_meta
    GPU.fill((1000,), SHIFTED["normal"])
    torch.cuda.synchronize()


def test_too_little_memory_for_the_list_is_said_and_nothing_written():
    tensors, keys, kinds = arguments("cuda", [((3, 3), "float32", "normal")] * MANY)
    for tensor in tensors:
        tensor.zero_()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    hoard: list[torch.Tensor] = []
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            hoard.extend(torch.empty(4096, device="cuda", dtype=torch.uint8) for _ in range(1_000_000))
        with pytest.raises(RuntimeError, match="out of memory on the GPU, for the list"):
            ops.fill_(tensors, keys, kinds)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        hoard.clear()
    assert not any(tensor.any() for tensor in tensors)
    ops.fill_(tensors, keys, kinds)
    assert all(tensor.any() for tensor in tensors)


def test_a_key_tensor_stays_on_the_cpu():
    with torch.device("cuda"):
        tensor = init.normal_(torch.empty(100), key=Key(0, "w"))
        drawn = init.normal_(torch.empty(100))
    assert tensor.is_cuda and drawn.is_cuda
    assert_same_bits(tensor, init.normal_(torch.empty(100), key=Key(0, "w")))
    with pytest.raises(RuntimeError, match="keys is a contiguous int64 tensor on the CPU"):
        ops.fill_([tensor], key_tensor(KEY).cuda(), [Uniform()])
