"""inspect_model: its numbers against hooks and numpy, that it leaves all as it was, and what it refuses."""

import copy
import random

import numpy as np
import pytest
import torch
from inspected import mlp
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.utils.checkpoint import checkpoint

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, init_model_, inspect_model
from convinit_ext.recipes import Recipe, Rule

SEED = 3


class Shared(nn.Module):
    """One layer called three times, one that puts out a tuple, and one whose output is overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.lstm, self.last = nn.Linear(8, 8), nn.LSTM(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        for _ in range(3):
            x = self.again(x).tanh_() if self.training else self.again(x).tanh()
        return {"logits": self.last(self.lstm(x)[0].sigmoid())}


def seen_by_hand(model, x, seed=SEED):
    """Outputs and their gradients by module: what hooks on a model of one's own would see."""
    outputs, gradients = {}, {}

    def hook(name, output):
        output = output[0] if isinstance(output, tuple) else output
        outputs.setdefault(name, []).append(output.detach().numpy().copy())
        output.register_hook(lambda gradient: gradients.setdefault(name, []).append(gradient.numpy().copy()))

    for name, module in model.named_children():
        module.register_forward_hook(lambda module, args, output, name=name: hook(name, output))
    output = model(x)
    output = output["logits"] if isinstance(output, dict) else output
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)))
    return outputs, gradients


def conv() -> nn.Sequential:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(216, 5)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("build", "shape"), [(conv, (7, 3, 8, 8)), (Shared, (6, 9, 8))])
def test_the_numbers_are_those_of_hooks(build, shape):
    torch.manual_seed(1)
    model, x = build(), torch.randn(shape) * 2 + 1
    found = inspect_model(model, x, seed=SEED)
    outputs, gradients = seen_by_hand(model.eval() if build is Shared else model, x)  # of views no hook knows
    assert [row.name for row in found.rows] == list(outputs)
    for row in found.rows:
        values = np.concatenate([each.ravel() for each in outputs[row.name]]).astype(np.float64)
        back = np.concatenate([each.ravel() for each in gradients[row.name]]).astype(np.float64)
        assert row.calls == len(outputs[row.name])
        assert row.shape == outputs[row.name][-1].shape
        assert row.mean == pytest.approx(values.mean(), abs=1e-6)
        assert row.std == pytest.approx(values.std())
        assert row.zeros == pytest.approx(np.mean(values == 0), abs=1e-12)
        assert row.gradient_std == pytest.approx(np.sqrt(np.mean(back**2)))
        assert not row.dead and row.not_finite == 0
    assert found.rows[0].input_std == pytest.approx(
        x.numpy().std() if build is conv else found.rows[0].input_std
    )
    for row, (name, parameter) in zip(found.weights, model.named_parameters(), strict=True):
        assert (row.name, row.shape) == (name, parameter.shape)
        assert row.std == pytest.approx(parameter.detach().numpy().astype(np.float64).std())
        assert row.gradient_std == pytest.approx(parameter.grad.square().mean().sqrt().item(), rel=1e-5)
        assert row.initialiser == "-" and np.isnan(row.intended)


def phi(x: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.tensor(x)).numpy()


CUT = np.linspace(-1, 0.5, 100_001)
CUT_MEAN = np.average(CUT, weights=np.exp(-(CUT**2) / 2))
DRAWN = [
    (Normal(0.5, 0.2), 0.2, lambda x: phi((x - 0.5) / 0.2)),
    (Uniform(-1.0, 3.0), 4 / np.sqrt(12), lambda x: (x + 1) / 4),
    (
        TruncatedNormal(0.0, 1.0, -1.0, 0.5),
        float(np.sqrt(np.average(CUT**2, weights=np.exp(-(CUT**2) / 2)) - CUT_MEAN**2)),
        lambda x: (phi(x) - phi(np.float64(-1))) / (phi(np.float64(0.5)) - phi(np.float64(-1))),
    ),
]


@pytest.mark.parametrize(("drawn", "std", "cdf"), DRAWN, ids=lambda value: type(value).__name__)
def test_histograms_and_stds_against_the_density(drawn, std, cdf):
    model = nn.Linear(300, 40)
    recipe = Recipe((Rule(drawn, parameter="weight"), Rule(Constant(0.25))))
    weight, bias = inspect_model(model, recipe=recipe).weights
    init_model_(model, recipe=recipe)
    values = model.weight.detach().numpy().astype(np.float64)
    assert weight.intended == pytest.approx(std, rel=1e-3)
    assert weight.std == pytest.approx(values.std())
    edges = np.array(weight.edges)
    inner = np.concatenate(([-np.inf], edges[1:-1], [np.inf]))  # the outermost bins have the rest too
    assert np.abs(np.histogram(values, inner)[0] - weight.counts).sum() <= 2  # a value at an edge
    below = np.concatenate(([0], cdf(edges[1:-1]), [1]))
    np.testing.assert_allclose(weight.expected, np.diff(below) * values.size, rtol=1e-6)
    assert weight.elsewhere == pytest.approx(
        np.abs(np.subtract(weight.counts, weight.expected)).sum() / 24000
    )
    assert (bias.intended, bias.std, bias.elsewhere, bias.edges) == (0, 0, 0, ())


def test_what_lies_beyond_a_histogram_is_in_its_outermost_bins():
    model = nn.Linear(50, 50)
    nn.init.constant_(model.weight, 3.0)
    rules = [Rule(Normal(0.0, 0.2), parameter="weight"), Rule(Uniform(-1.0, 1.0))]
    weight, bias = inspect_model(model, expected=rules).weights
    assert (weight.edges[0], weight.edges[-1]) == pytest.approx((-0.9, 0.9))
    assert weight.counts[-1] == sum(weight.counts) == 2500 and sum(bias.counts) == 50
    assert weight.elsewhere == pytest.approx(1, abs=1e-4)


def test_a_padding_row_does_not_count():
    weight = inspect_model(nn.Embedding(4, 500, padding_idx=1), recipe="torch").weights[0]
    assert weight.std == pytest.approx(1, abs=0.06) and weight.intended == 1
    assert sum(weight.counts) == 3 * 500


def state(model, x):
    tensors = [x, *model.state_dict().values(), *(each.grad for each in model.parameters())]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    hooks += [len(each._backward_hooks or ()) for each in model.parameters()]
    flags = (
        [module.training for module in model.modules()],
        [each.requires_grad for each in model.parameters()],
    )
    versions = [each._version for each in [x, *model.state_dict().values()]]
    randomness = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    return copy.deepcopy(([each.tolist() for each in tensors], hooks, flags, versions, randomness))


class Noisy(nn.Module):
    """Writes to its input, draws from every generator, and may raise an error."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.raises, self.calls = raises, 0

    def forward(self, x):
        self.calls += 1
        x.add_(random.random() + np.random.rand())
        out = self.layers(x)
        if self.raises:
            raise KeyError("no such thing")
        return out


@pytest.mark.parametrize("recipe", [None, "he", ["he", "torch"]])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_as_it_was(recipe, training, raises):
    model, x = Noisy(raises), torch.ones(5, 4)
    model.train(training)
    model.layers[3].bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    model.layers[0].register_forward_hook(lambda *call: None)
    before = state(model, x)
    if raises:
        with pytest.raises(RuntimeError, match=r"Noisy raised an error on inputs float32 \[5, 4\]: KeyError"):
            inspect_model(model, x, recipe, frozen="keep")
    else:
        first = inspect_model(model, x, recipe, frozen="keep")
        assert inspect_model(model, x, recipe, frozen="keep").to_json() == first.to_json()
    assert state(model, x) == before
    assert model.calls == 0


def test_a_seed_says_all_that_is_random():
    model = Noisy(False)
    first = inspect_model(model, recipe="he", seed=2).to_json()
    for draw in (torch.rand, random.randrange, np.random.rand):
        draw(1)
        assert inspect_model(model, recipe="he", seed=2).to_json() == first
    assert inspect_model(model, recipe="he", seed=-2).to_json() != first


def test_the_mode_is_the_models_own():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.9))
    assert inspect_model(model).rows[1].zeros > 0.5
    assert inspect_model(model.eval()).rows[1].zeros == 0


def test_several_recipes_have_rows_of_their_own():
    rules = [Rule(Normal(0.0, 1e-6), parameter="weight")]
    found = inspect_model(mlp(), recipe=["he", Recipe(tuple(rules), name="tiny"), rules, rules], seed=4)
    assert found.recipes == ("he", "tiny", "custom", "custom (4)")
    for name, recipe in (("he", "he"), ("tiny", rules)):
        alone = inspect_model(mlp(), recipe=recipe, seed=4)
        ours = [row for row in found.rows if row.recipe == name]
        assert [row.std for row in ours] == [row.std for row in alone.rows]
        assert [row.gradient_std for row in ours] == [row.gradient_std for row in alone.rows]
    assert {said.partition(": ")[0] for said in found.problems} == {"tiny", "custom", "custom (4)"}


def test_the_copy_has_the_values_of_init_model():
    model = conv()
    row = inspect_model(model, torch.ones(2, 3, 8, 8), "xavier", 9).weights[0]
    init_model_(model, 9, "xavier")
    assert row.std == pytest.approx(model[0].weight.detach().double().std(correction=0).item())


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of importing torch.compile
def test_layers_inside_wrappers_are_seen_once():
    normalised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False))
    with pytest.warns(FutureWarning):
        older = nn.utils.weight_norm(nn.Linear(4, 4))
    encoder = nn.TransformerEncoderLayer(4, 2, 8)
    model = nn.Sequential(normalised, older, encoder, Checkpointed())
    assert [row.name for row in inspect_model(model).rows if row.has_parameters] == [
        *("0", "1", "2.self_attn", "2.norm1", "2.linear1", "2.linear2", "2.norm2"),
        "3.inner.0",
    ]
    assert {row.calls for row in inspect_model(model).rows} == {1}
    compiled = inspect_model(torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
    assert compiled.model == "Sequential" and [row.name for row in compiled.rows] == ["0", "1"]
    assert inspect_model(nn.DataParallel(mlp())).model == "Sequential"


def test_a_model_on_the_meta_device_needs_a_recipe():
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.ReLU())
    with pytest.raises(ValueError, match=r"'0.weight' is on the meta device and has no values; say recipe="):
        inspect_model(model)
    assert inspect_model(model, recipe="he").rows[0].std > 0
    assert model[0].weight.is_meta


def test_sharded_models_are_refused():
    for _ in every_rank((2,)):
        model = fully_shard(nn.Sequential(nn.Linear(4, 4)))
        with pytest.raises(
            ValueError, match=r"'0.weight' is shared out over processes.*accepted is the model before"
        ):
            inspect_model(model, recipe="he")
        model.unshard()  # as after a forward pass
        with pytest.raises(ValueError, match=r"'0.weight' is shared out over processes"):
            inspect_model(model)
    for mesh in every_rank((2,)):
        model = nn.Linear(4, 4)
        model.bias = nn.Parameter(distribute_tensor(model.bias.data, mesh, [Replicate()], src_data_rank=None))
        with pytest.raises(ValueError, match="'bias' is shared out over processes"):
            inspect_model(model)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise NotImplementedError("a handle")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_models_are_refused():
    scripted = torch.jit.script(nn.Linear(4, 4))
    for model in (scripted, nn.Sequential(scripted)):
        with pytest.raises(ValueError, match="model must be one that is not scripted"):
            inspect_model(model)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, not int"),
        ({"inputs": "x"}, TypeError, "inputs must be a tensor, a tuple of arguments or a dict.*not str"),
        ({"recipe": "soup"}, ValueError, "no recipe 'soup'"),
        ({"recipe": ["he", "soup"]}, ValueError, "no recipe 'soup'"),
        ({"recipe": "he", "expected": "he"}, ValueError, "expected= is for a model as it is"),
        ({"expected": "soup"}, ValueError, "no recipe 'soup'"),
        ({"seed": "many"}, TypeError, "seed"),
        ({"model": nn.LazyLinear(3)}, ValueError, "without a shape yet: weight"),
        ({"model": Uncopied(2, 2)}, RuntimeError, r"runs a copy.* raised NotImplementedError: a handle"),
        (
            {"inputs": torch.ones(3, 3)},
            RuntimeError,
            r"Linear raised an error on inputs float32 \[3, 3\]: Runt",
        ),
    ],
    ids=str,
)
def test_what_is_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        inspect_model(**{"model": nn.Linear(4, 4), **arguments})
