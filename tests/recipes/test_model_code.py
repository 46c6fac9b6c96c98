"""What no rule of a ready-made recipe knows: the model's own init code is asked, then its constructor."""

import copy

import numpy as np
import pytest
import torch
from planning import GENERAL, make_plan
from planning import fillings as every_filling
from safetensors.torch import load_file
from torch import nn

from convinit_ext import Constant, Normal, Uniform, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Rule, _model_code

SAID = "the model's own init code"


class Odd(nn.Module):
    """Parameters that no recipe knows."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        for number, shape in enumerate(shapes):
            self.register_parameter(f"p{number}", nn.Parameter(torch.full(shape, 7.0)))


class Model(nn.Module):
    """A model whose `_init_weights` is a function of an Odd."""

    def __init__(self, code, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = nn.Sequential(Odd(*shapes), nn.Linear(4, 4))
        self.code = code

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Odd):
            self.code(module)


def built(device: str, *arguments) -> nn.Module:
    with torch.device(device):
        return Model(*arguments)


def fillings(model: nn.Module, recipe: object = "torch") -> dict[str, object]:
    return {name: means for name, means in every_filling(model, recipe).items() if "p" in name}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_code_that_pytorch_cannot_run_in_a_narrow_dtype(dtype):
    def code(module: nn.Module) -> None:
        nn.init.orthogonal_(module.p1)  # whose QR PyTorch does not have in bfloat16
        nn.init.trunc_normal_(module.p0, std=0.02)
        module.p2.data.copy_(torch.rand(6) + 1)
        with torch.no_grad():
            module.p3.copy_(torch.arange(1, 7).log())

    shapes = (5, 4), (4, 4), (6,), (6,)
    wide, narrow = built("cpu", code, *shapes), built("cpu", code, *shapes).to(dtype)
    init_model_(wide, seed=3)
    init_model_(narrow, seed=3)
    for (name, parameter), each in zip(narrow.named_parameters(), wide.parameters(), strict=True):
        assert torch.equal(parameter, each.to(dtype)), name
    init_model_(wide, seed=3, dtype=dtype)
    assert fingerprint(wide) == fingerprint(narrow) and verify(wide, seed=3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("code", "means"),
    [
        (lambda m: nn.init.zeros_(m.p0), Constant(0.0)),
        (lambda m: m.p0.data.fill_(4), Constant(4.0)),
        (lambda m: nn.init.constant_(m.p0, -0.5), Constant(-0.5)),
        (lambda m: m.p0.data.normal_(mean=1.0, std=0.3), Normal(1.0, 0.3)),
        (lambda m: nn.init.normal_(m.p0, std=0.02), Normal(0.0, 0.02)),
        (lambda m: nn.init.uniform_(m.p0, -1, 2), Uniform(-1.0, 2.0)),
        (lambda m: nn.init.normal_(nn.init.zeros_(m.p0)), Normal(0.0, 1.0)),  # the last counts
        (lambda m: nn.init.trunc_normal_(m.p0, std=0.02), Normal(0.0, 0.02)),  # bounds of 100 stds
        (lambda m: nn.init.trunc_normal_(nn.init.ones_(m.p0), std=0.02), Normal(0.0, 0.02)),
    ],
)
def test_a_function_of_torchs_is_its_distribution(code, means, device):
    for recipe in GENERAL:
        model = built(device, code, (3, 4))
        assert fillings(model, recipe) == {"inner.0.p0": means}
        assert init_model_(model, recipe=recipe).rows[0].initialiser == SAID


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_it_computes_is_computed_and_rounded_once(dtype, device):
    def code(module: nn.Module) -> None:
        nn.init.normal_(module.p0)
        with torch.no_grad():
            module.p0.copy_(torch.linspace(0, 1, 64, device=module.p1.device) ** 3).mul_(1 / 3).add_(0.1)
        nn.init.ones_(module.p1)

    model = built(device, code, (64,), (2,)).to(dtype)
    init_model_(model)
    expected = (torch.linspace(0, 1, 64) ** 3).mul(1 / 3).add(0.1).to(dtype)
    assert torch.equal(model.inner[0].p0, expected) and model.inner[0].p1.eq(1).all()


def test_what_it_draws_otherwise_follows_the_seed_and_the_name_alone():
    def code(module: nn.Module) -> None:
        module.p0.data.copy_(torch.rand(64).add(1).log())
        module.p1.data.copy_(torch.from_numpy(np.random.rand(64)).add(1).log())

    def made(seed: int, device: str, **options: object) -> nn.Module:
        torch.manual_seed(seed + 100)
        model = built(device, code, (64,), (64,))
        state = torch.get_rng_state()
        init_model_(model, seed, **options)
        assert torch.equal(torch.get_rng_state(), state)
        return model.inner[0]

    one, two, other = made(0, "meta"), made(0, "cpu"), made(1, "cpu")
    assert torch.equal(one.p0, two.p0) and not torch.equal(one.p0, other.p0)
    assert not torch.equal(one.p0, one.p1)
    named = made(0, "meta", names={"inner.0.p1": "inner.0.p0", "inner.0.p0": "else"})
    assert not torch.equal(named.p0, one.p0)
    assert one.p0.min() >= 0 and one.p0.max() < np.log(2) + 1e-6


def test_plans_checkpoints_and_verification_know_what_it_draws(tmp_path):
    model = built("cpu", lambda m: m.p0.data.copy_(torch.rand(64).log()), (64,))
    init_model_(model, 5)
    assert verify(model, 5) and not verify(model, 6)
    assert plan_model(model, 5).fingerprint() == fingerprint(model)
    save_model(built("meta", model.code, (64,)), tmp_path / "a.safetensors", 5)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["inner.0.p0"], model.inner[0].p0)


def test_a_truncated_normal_is_none_however_few_values_its_bounds_let_pass():
    model = built("meta", lambda m: nn.init.trunc_normal_(m.p0), (2,))
    made = []
    for state in range(9):
        torch.manual_seed(state)
        report = init_model_(model, 3)
        assert np.isnan(report.rows[0].std)  # none of a distribution's
        made.append(model.inner[0].p0.tolist())
        model.to("meta")
    assert made == made[:1] * 9


@pytest.mark.parametrize("recipe", GENERAL)
def test_a_parameter_without_elements_needs_no_rule(recipe):
    model = built("meta", lambda m: nn.init.ones_(m.p1), (1, 0, 4), (2,))
    assert fillings(model, recipe) == {"inner.0.p0": Constant(0.0), "inner.0.p1": Constant(1.0)}


class Guarded(Odd):
    """transformers' ViTMAE, whose code writes nothing once what is inside has been initialised: always."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__(*shapes)
        self.inside = nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_modules_inside_are_initialised_before(device):
    def code(module: nn.Module) -> None:
        nn.init.zeros_(module.p0)
        if not getattr(module.inside[0], "_is_hf_initialized", False):
            nn.init.ones_(module.p0)

    model = built(device, code)
    with torch.device(device):
        model.inner[0] = Guarded((3,))
    assert fillings(model) == {"inner.0.p0": Constant(0.0)}
    assert not hasattr(model.inner[0].inside[0], "_is_hf_initialized")


class Own(nn.Linear):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "extra"):
            nn.init.constant_(self.extra, 3.0)


def test_reset_parameters_and_init_weights_of_its_own_type_are_asked_and_those_of_torch_are_not():
    layer, plain = Own(4, 4), nn.GRU(2, 2)
    layer.extra, plain.extra = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    whole = type("Whole", (Odd,), {"init_weights": lambda self: nn.init.constant_(self.p0, 2.0)})((3,))
    titan = Odd((3,))
    titan._param_init = {"p0": lambda parameter: nn.init.normal_(parameter, std=0.5)}
    for module, name, means in ((layer, "extra", 3.0), (whole, "p0", 2.0), (titan, "p0", None)):
        found = every_filling(module, "llama")[name]
        assert found == (Normal(0.0, 0.5) if means is None else Constant(means))
    with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  extra \[3\] of GRU"):
        init_model_(plain)


@pytest.mark.parametrize(
    "code",
    [
        lambda m: None,
        lambda m: nn.init.zeros_(m.missing),
        lambda m: m.p0.data[0].fill_(1),  # a part alone
        lambda m: m.p0.data.copy_(torch.ones(3, 4) / 0),  # no number
        lambda m: m.p0.data.copy_(torch.tensor(np.random.default_rng().random((3, 4)))),
    ],
)
def test_what_it_does_not_say_is_listed_and_nothing_is_written(code):
    model = built("cpu", code, (3, 4))
    before, version = copy.deepcopy(model.state_dict()), model.inner[0].p0._version
    with pytest.raises(ValueError, match=r"inner\.0\.p0 \[3, 4\] of Odd"):
        init_model_(model, recipe="gpt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.inner[0].p0._version == version


def test_only_lists_with_a_ready_made_recipe_ask_and_their_own_rules_come_first():
    model = built("cpu", lambda m: nn.init.ones_(m.p0), (3,))
    model.inner[0].bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"inner\.0\.p0"):
        init_model_(model, recipe=[Rule(Normal(), parameter="weight")])
    after = [*TORCH, Rule(Constant(5.0), parameter="p0"), Rule(Constant(6.0), name="*.0.bias")]
    init_model_(model, recipe=after)
    assert model.inner[0].p0.eq(5).all() and model.inner[0].bias.eq(6).all()
    init_model_(model, recipe=[Rule(Constant(0.5), module=nn.Linear), *TORCH])
    assert model.inner[0].p0.eq(1).all() and model.inner[0].bias.eq(0).all()


@pytest.mark.parametrize("recipe", GENERAL)
def test_a_bias_that_a_module_registers_by_itself_is_zero(recipe):
    model = nn.Module()
    model.head, model.bias = nn.Linear(4, 4), nn.Parameter(torch.ones(9))
    init_model_(model, recipe=recipe)
    assert not model.bias.any()


def test_what_a_recipe_marks_as_unknown_is_asked_about_too():
    def code(module: nn.Module) -> None:
        nn.init.constant_(module.dt_proj.bias, -4.0)

    model = built("cpu", code, (3,))
    model.inner[0].dt_proj = nn.Linear(4, 4)
    model.code = lambda module: (code(module), nn.init.zeros_(module.p0))
    init_model_(model)  # the module around it writes it
    assert model.inner[0].dt_proj.bias.eq(-4).all()


def test_large_parameters_are_not_made_to_look_at_them(monkeypatch):
    monkeypatch.setattr(_model_code, "_MOST", 10)
    model = built("meta", lambda m: (nn.init.normal_(m.p0), nn.init.ones_(m.p1)), (20,), (20,))
    assert fillings(model) == {"inner.0.p0": Normal(), "inner.0.p1": Constant(1.0)}
    model.code = lambda m: m.p0.data.copy_(torch.arange(20.0))
    with pytest.raises(ValueError, match=r"inner\.0\.p0"):
        make_plan(model)


class Positions(nn.Module):
    """Whisper's encoder, whose frozen positions are a plain embedding that the encoder's own code fills."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(6, 4).requires_grad_(False)
        self.layer = nn.Linear(4, 4)

    @staticmethod
    def table() -> torch.Tensor:
        return torch.arange(24.0).reshape(6, 4).sin()


class Whisper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Positions()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Positions):
            module.embed_positions.weight.data.copy_(module.table())


@pytest.mark.parametrize("recipe", ["torch", "llama", "trunc_normal"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("frozen", [None, "keep", "draw"])
def test_a_frozen_table_that_the_models_code_computes_is_computed(frozen, device, recipe):
    with torch.device(device):
        model = Whisper()
    before = None if device == "meta" else model.encoder.embed_positions.weight.clone()
    init_model_(model, 3, recipe, frozen=frozen)
    weight = model.encoder.embed_positions.weight
    is_kept = frozen == "keep" and device == "cpu"
    assert torch.equal(weight, before if is_kept else Positions.table()) and not weight.requires_grad
    assert verify(model, 3, recipe, frozen=frozen)
    assert model.encoder.layer.weight.std() > 0


def test_a_copy_of_a_computed_table_and_a_rule_of_ones_own():
    with torch.device("meta"):
        model = Whisper()
        model.other = nn.Embedding(6, 4)
    init_model_(model, recipe=[Rule(CopyFrom("encoder.embed_positions.weight"), name="other.weight"), *TORCH])
    assert torch.equal(model.other.weight, Positions.table())
    init_model_(model, recipe=[Rule(Constant(2.0), name="encoder.embed_positions.weight"), *TORCH])
    assert model.encoder.embed_positions.weight.eq(2).all()


def test_a_frozen_weight_that_the_models_code_draws_is_asked_about():
    model = Whisper()
    model.encoder.layer.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="1 parameter is frozen") as raised:
        init_model_(model)
    assert "encoder.layer.weight" in str(raised.value) and "embed_positions" not in str(raised.value)
