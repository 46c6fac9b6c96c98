"""save_model writes what init_model_ and the safetensors library would; what is in the way is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save
from saving import filled, on_meta, rule_model, spectral, unique
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from convinit_ext import Normal, fingerprint, init_model_, plan_model, save_model
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._safetensors import open_weights
from convinit_ext.model import _values as values_module
from convinit_ext.recipes import TORCH, Rule
from convinit_ext.recipes._derived import CopyFrom, NormOf, Preset
from convinit_ext.recipes._initialisers import ZEROS


class Odd(nn.Module):
    """Buffers of many kinds, some of which no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("steps", torch.arange(5), persistent=False)
        self.register_buffer("lost", torch.rand(3), persistent=False)  # nobody can rebuild it
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.empty = nn.Parameter(torch.empty(0, 3))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(11, 7, padding_idx=3), nn.Linear(7, 11, bias=False), nn.LSTM(7, 5))
    model[1].weight = model[0].weight
    return model


def normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(9, 6)),
        parametrizations.weight_norm(nn.Conv1d(3, 5, 2), dim=1),
        parametrizations.weight_norm(nn.Linear(4, 3), dim=None),
        weight_norm(nn.Linear(9, 6)),
    )


ANY = [*TORCH, Rule(Normal())]
MODELS = {
    "layers": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)),
    "odd": Odd,
    "tied": tied,
    "normed": normed,
    "spectral": spectral,
}


@pytest.fixture(autouse=True)
def _quiet_old_norms(recwarn):
    """PyTorch calls its older norms deprecated."""
    import warnings

    warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)


@pytest.fixture(params=[1 << 25, 48], ids=["one block", "many blocks"])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(file_writer, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(values_module, "_SCRATCH_BYTES", request.param)


def assert_file_is(path, tensors):
    """Bit for bit what the library writes, but for the order of the metadata."""
    written = path.read_bytes()
    metadata = open_weights(path).metadata
    expected = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    length = 8 + int.from_bytes(written[:8], "little")
    assert written[:8] == expected[:8]
    assert json.loads(written[8:length]) == json.loads(expected[8:length])
    assert list(json.loads(written[8:length])) == list(json.loads(expected[8:length]))
    assert written[length:] == expected[length:]


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize(
    "dtype", [None, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_file_is_what_filling_and_saving_gives(tmp_path, build, dtype):
    if dtype == torch.float8_e4m3fn and build is spectral:
        with pytest.raises(ValueError, match="PyTorch has no norm of"):
            filled(build, recipe=ANY, dtype=dtype)
        return
    model = on_meta(build)
    report = save_model(model, tmp_path / "a.safetensors", seed=7, recipe=ANY, dtype=dtype)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert_file_is(tmp_path / "a.safetensors", filled(build, seed=7, recipe=ANY, dtype=dtype))
    assert report.num_bytes == (tmp_path / "a.safetensors").stat().st_size


def with_views() -> nn.Module:
    """Buffers that share their memory and differ in what they say."""
    model = nn.Linear(2, 2)
    waves = torch.tensor([[1 + 2j, 3 - 1j], [0.5j, -4 + 1j]])
    views = {"waves": waves, "conj": waves.conj(), "same": waves.detach().conj()}
    for name, view in (views | {"imag": waves.imag, "minus_imag": waves.conj().imag}).items():
        model.register_buffer(name, view)
    return model


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_negative_view_in_float8(dtype, tmp_path):
    model = nn.Linear(2, 3)
    waves = torch.randn(4, 6, dtype=torch.complex64)
    model.register_buffer("rows", waves.conj().imag)
    model.register_buffer("columns", waves.t().conj().imag)
    plan = plan_model(model, 3, dtype=dtype)
    save_model(model, tmp_path / "a.safetensors", 3, dtype=dtype)
    assert plan.fingerprint() == fingerprint(tmp_path / "a.safetensors")
    init_model_(model, 3, dtype=dtype)
    assert fingerprint(model) == fingerprint(tmp_path / "a.safetensors")


def test_a_conjugate_view_is_another_tensor(tmp_path):
    model = with_views()
    save_model(model, tmp_path / "a.safetensors")
    init_model_(model)
    stored = load_file(tmp_path / "a.safetensors")
    assert set(stored) == {"weight", "bias", "waves", "conj", "imag", "minus_imag"}  # "same" is "conj"
    for name, values in stored.items():
        assert torch.equal(values, model.state_dict()[name]), name
    assert fingerprint(model) == fingerprint(tmp_path / "a.safetensors") == plan_model(model).fingerprint()


PRESET = torch.linspace(-3, 3, 36, dtype=torch.float64).view(6, 6)
RULES = {
    "preset": [Rule(Preset(PRESET), name="1.weight")],
    "strided preset": [Rule(Preset(PRESET.t()), name="1.weight")],
    "expanded preset": [Rule(Preset(PRESET[0].expand(6, 6)), name="1.weight")],
    "copy": [Rule(CopyFrom("0.weight"), name="4.weight")],
    "norm of a preset": [
        Rule(Preset(PRESET), name="1.weight"),
        Rule(lambda target: NormOf("1.weight", 0), name="norm"),
    ],
}


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_of_every_kind(tmp_path, rules):
    def build():
        model = rule_model()
        model.norm = nn.Parameter(torch.ones(6, 1))
        return model

    recipe = [*rules, Rule(Normal(), name="norm", allow_unused=True), *TORCH]
    for dtype in (None, torch.bfloat16):
        path = tmp_path / f"{dtype}.safetensors"
        save_model(on_meta(build), path, recipe=recipe, dtype=dtype)
        assert_file_is(path, filled(build, recipe=recipe, dtype=dtype))


@pytest.mark.usefixtures("block_bytes")
def test_what_is_not_chosen_is_copied_from_memory(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 3, 3).to(memory_format=torch.channels_last))
    model.extra = nn.Parameter(torch.randn(7, 5).t(), requires_grad=False)
    model.register_buffer("mask", torch.rand(9) > 0.5)
    model.register_buffer("counts", torch.arange(12).view(3, 4).t())
    model.register_buffer("phases", torch.randn(3, dtype=torch.complex64).conj())
    before = {name: (tensor, tensor.clone(), tensor._version) for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path / "a.safetensors", only="0", seed=3, names={"0": "elsewhere"})
    for tensor, values, version in before.values():
        assert tensor.equal(values) and tensor._version == version
    init_model_(model, 3, only="0", names={"0": "elsewhere"})
    assert_file_is(tmp_path / "a.safetensors", {k: v.resolve_conj() for k, v in unique(model).items()})


def test_every_dtype_in_the_order_of_the_library(tmp_path):
    from convinit_ext.model import DTYPES

    model = nn.Module()
    for code, dtype in DTYPES.items():
        bits = torch.randint(0, 2, (16,), dtype=torch.uint8)
        model.register_buffer(code.lower(), bits.bool() if code == "BOOL" else bits.view(dtype))
    save_model(model, tmp_path / "a.safetensors")
    assert_file_is(tmp_path / "a.safetensors", model.state_dict())


def test_names_are_canonical(tmp_path):
    model = nn.Sequential(torch.compile(nn.Linear(3, 2)))
    save_model(nn.DataParallel(model), tmp_path / "a.safetensors")
    assert list(open_weights(tmp_path / "a.safetensors").tensors) == ["0.bias", "0.weight"]
    strange = nn.Module()
    strange.register_parameter("a/\\é b", nn.Parameter(torch.ones(2)))
    save_model(strange, tmp_path / "b", recipe=[Rule(Normal(), name="*")])
    assert [each.name for each in (tmp_path / "b").iterdir()] == ["model.safetensors"]
    assert list(load_file(tmp_path / "b" / "model.safetensors")) == ["a/\\é b"]


def test_extra_state_is_left_out(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    model = nn.Sequential(Extra(2, 2))
    plan = plan_model(model)
    save_model(model, tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == {"0.weight", "0.bias"}
    plan.run()
    assert plan.fingerprint() == fingerprint(tmp_path / "a.safetensors") == fingerprint(model)


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(
        ValueError, match=r"nothing fills 2 tensors on the meta device:\n  1.weight \[4, 6\]\n"
    ):
        save_model(on_meta(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))), path, only="0")

    strange = nn.Linear(2, 2)
    strange.register_state_dict_post_hook(lambda module, state, prefix, _: state.update(scale={"a": 1}))
    with pytest.raises(TypeError, match="'scale' of the state dict is a dict"):
        save_model(strange, path)
    sparse = nn.Linear(2, 2)
    sparse.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(TypeError, match=r"'mask' is a torch.sparse_coo tensor"):
        save_model(sparse, path)
    wide = nn.Linear(2, 2)
    wide.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(TypeError, match=r"'phases' is of torch.complex128; a file holds BOOL"):
        save_model(wide, path)
    assert not list(tmp_path.iterdir())


def test_a_parameter_named_as_the_metadata(tmp_path):
    model = nn.ParameterDict({"__metadata__": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"cannot hold a tensor named '__metadata__'"):
        save_model(model, tmp_path / "out", recipe=[Rule(name="*", init=ZEROS)])
    assert not (tmp_path / "out").exists()
