"""inspect_model: its numbers against hooks and numpy, its sentences, and that it leaves all as it was."""

from __future__ import annotations

import copy
import random
import re

import numpy as np
import pytest
import real_models
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.utils.checkpoint import checkpoint

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, init_model_, inspect_model
from convinit_ext.recipes import Recipe, Rule

SEED = 3


def mlp(depth: int = 4, inplace: bool = False) -> nn.Sequential:
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.ReLU(inplace))]
    return nn.Sequential(*hidden, nn.Linear(32, 6))


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


def test_a_good_net_has_no_problems():
    assert inspect_model(mlp(10), recipe="he").problems == ()


@pytest.mark.parametrize("inplace", [False, True])
def test_dead_layers_are_named(inplace):
    model = mlp(inplace=inplace)
    nn.init.constant_(model[2].bias, -100)
    dead, unreached = inspect_model(model, recipe=None).problems
    assert dead == "dead: the output of 3 (ReLU) is the same for every input"
    names = "0.weight, 0.bias, 2.weight, 2.bias, 4.weight"
    assert unreached == f"cannot learn at first: the gradient is zero of {names}"
    found = inspect_model(model)
    assert [row.name for row in found.rows if row.dead] == ["3"]
    assert found.rows[3].zeros == 1 and found.rows[2].zeros == 0


def test_zero_weights_are_dead_and_the_layers_before_learn_nothing():
    model = mlp()
    nn.init.zeros_(model[4].weight)
    dead, unreached = inspect_model(model).problems
    assert dead == "dead: the output of 4 (Linear) is the same for every input"
    assert unreached.endswith("the gradient is zero of 0.weight, 0.bias, 2.weight, 2.bias")
    nn.init.zeros_(model[4].bias)  # also where the batch is of one
    assert inspect_model(model, torch.randn(1, 32)).problems[0] == dead


def test_nearly_dead_layers_are_named():
    model = mlp()
    nn.init.constant_(model[2].bias[1:], -100)
    (said,) = inspect_model(model, recipe=None).problems[:1]
    assert said.startswith("nearly dead: the output is mostly zero of 3 (ReLU), 9")


def test_exploding_layers_are_named():
    model = mlp(6)
    for layer in model[::2]:
        nn.init.normal_(layer.weight, 0, 10)
    outputs, gradients = inspect_model(model, torch.randn(512, 32)).problems
    # std 10 on 32 inputs: 57 times the input, then 40 times the output of a ReLU
    assert outputs.startswith("exploding outputs: 6 of 7 layers, from 2 (Linear), std ")
    assert ", to 12 (Linear), " in outputs and "times its input" in outputs
    assert "exploding gradients: " in gradients and ", to 0 (Linear), " in gradients
    assert "; 12 (Linear) has 1" in gradients


def test_vanishing_layers_are_named():
    outputs, gradients = inspect_model(mlp(12), recipe="trunc_normal").problems
    # std 0.02 on 32 inputs of which half are zero: 0.08 times a layer
    assert outputs.startswith("vanishing outputs: 10 of 13 layers, from 6 (Linear), std ")
    assert ", to 24 (Linear), " in outputs
    assert gradients.startswith("vanishing gradients: ") and ", to 0 (Linear), " in gradients


def test_one_steep_layer_is_named():
    model = mlp()
    init_model_(model, recipe="he")
    model[4].weight.data *= 1e4
    outputs = inspect_model(model).problems[0]
    assert outputs.startswith("exploding outputs: 3 of 5 layers, from 4 (Linear)")
    assert "; the steepest is 4 (Linear), 1" in outputs


def test_a_branch_with_small_gradients_does_not_vanish():
    model = nn.Sequential(nn.Embedding(20, 32), nn.TransformerEncoderLayer(32, 2, 64), nn.Linear(32, 4))
    init_model_(model, recipe="he")
    model[1].linear1.weight.data *= 1e-8
    assert inspect_model(model).rows[5].gradient_std > 0.1  # of what is after it
    model[1].linear2.weight.data *= 1e-8
    found = inspect_model(model)
    (small,) = (row.gradient_std for row in found.rows if row.name == "1.linear1")
    assert small < 1e-7 and not [said for said in found.problems if "gradients" in said]


class Positions(nn.Module):
    """Makes a table that is the same for every input, as rotary embeddings do."""

    def forward(self, x):
        return torch.arange(12.0).expand(len(x), 2, 12)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.positions = nn.Linear(4, 12), Positions()
        self.other, self.more = nn.Linear(4, 4), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.first(x) + self.positions(x).sum(1)


def test_what_the_outputs_do_not_depend_on_is_unused():
    said = ("unused: the outputs on these inputs do not depend on more, other.weight, other.bias",)
    assert inspect_model(Unused()).problems == said


def test_what_is_not_finite_is_named():
    model = mlp()
    model[2].weight.data[0, 0] = float("nan")
    outputs, weights = inspect_model(model).problems
    assert outputs == "not finite: 3.1% of what 2 (Linear) puts out, the first such layer"
    assert weights == "not as intended: 2.weight (not finite)"
    assert "NaN" not in inspect_model(model).to_json()
    found = inspect_model(mlp().half(), torch.full((2, 32), 6e4, dtype=torch.float16))
    assert found.problems[0].startswith("not finite: ") and "of what 0 (Linear)" in found.problems[0]


def test_weights_that_are_not_as_expected_are_named():
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    init_model_(model, recipe="he")
    assert inspect_model(model, expected="he").problems == ()
    std = np.sqrt(2 / 100)
    nn.init.normal_(model[0].weight, 0, 0.1)
    nn.init.uniform_(model[1].weight, -np.sqrt(3) * std, np.sqrt(3) * std)  # of the right std
    nn.init.ones_(model[1].bias)
    (said,) = inspect_model(model, expected="he").problems
    first, second, third = said.split("), ")
    assert re.fullmatch(r"not as intended: 0.weight \(std 0.[01]\d*, kaiming_normal_.* has 0.141", first)
    assert re.fullmatch(r"1.weight \(\d\d% of its values lie elsewhere than by kaiming_normal_.*\)", second)
    assert third == "1.bias (100% of its values lie elsewhere than by zeros_)"


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


class Late(nn.Module):
    """Its first layer is not the first that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(7, 2), nn.Linear(3, 7)

    def forward(self, x):
        return self.head(self.body(x))


def lenet() -> nn.Module:
    layers = nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(128, 10))  # of images of 28 pixels


GUESSED = [
    (lambda: nn.Linear(5, 2), "float32 [16, 5], guessed from the Linear"),
    (lambda: nn.Linear(5, 2).double(), "float64 [16, 5], guessed from the Linear"),
    (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)),
        "int64 [16, 16], guessed from 0 (Embedding)",
    ),
    (lambda: nn.EmbeddingBag(9, 4), "int64 [16, 16], guessed from the EmbeddingBag"),
    (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2)), "float32 [16, 5], guessed from 1 (Linear)"),
    (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU()), "float32 [16, 2, 64], guessed from 0 (Conv1d)"),
    (lambda: nn.ConvTranspose2d(3, 4, 3), "float32 [16, 3, 32, 32], guessed from the ConvTranspose2d"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 32, 32), nn.Flatten(), nn.Linear(196, 3)),
        "float32 [2, 3, 224, 224], guessed from 0 (Conv2d)",  # a batch of as many as are not too much
    ),
    (lenet, "float32 [16, 1, 28, 28], guessed from 0 (Conv2d)"),
    (lambda: nn.Conv3d(1, 2, 3), "float32 [16, 1, 16, 16, 16], guessed from the Conv3d"),
    (lambda: nn.GRU(6, 4, batch_first=True), "float32 [16, 16, 6], guessed from the GRU"),
    (lambda: nn.GRUCell(6, 4), "float32 [16, 6], guessed from the GRUCell"),
    (Late, "float32 [16, 3], guessed from body (Linear)"),
    (real_models.gpt2, "int64 [16, 16], guessed from transformer.wte (Embedding)"),
    (
        real_models.resnet,
        "float32 [16, 3, 32, 32], guessed from resnet.embedder.embedder.convolution (Conv2d)",
    ),
]


@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize(
    ("build", "inputs"), GUESSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_inputs_are_guessed_by_the_first_layers(build, inputs):
    torch.manual_seed(0)
    found = inspect_model(build())
    assert found.inputs == inputs
    assert {row.calls for row in found.rows} == {1}  # nothing is left of guesses that failed
    assert found.rows and (found.problems == () or "Cell" in inputs)  # whose state is zero


def test_inputs_that_cannot_be_guessed_are_asked_for():
    with pytest.raises(
        ValueError, match=r"no inputs of Bilinear could be guessed.*pass inputs= \(--inputs.* nothing"
    ):
        inspect_model(nn.Bilinear(2, 2, 2))
    model = nn.Sequential(nn.Unflatten(1, (3, 5)), nn.Flatten(), nn.Linear(7, 2))
    tried = r"\n  float32 \[16, 7\], guessed from 2 \(Linear\): RuntimeError: .*3, 5"
    with pytest.raises(ValueError, match=rf"no inputs of Sequential .*Tried:{tried}"):
        inspect_model(model)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, *, scale=None, result="tuple"):
        y = self.fc(x) * scale
        return {"tuple": (y, None, "text"), "ints": y.argmax(1), "loss": {"loss": y.sum(), "y": y}}[result]


def test_inputs_are_arguments():
    x, scale = torch.ones(2, 4), torch.ones(3)
    found = inspect_model(Two(), {"x": x, "scale": scale})
    assert found.inputs == "x float32 [2, 4], scale float32 [3]"
    bilinear = inspect_model(nn.Bilinear(4, 3, 2), (x, torch.ones(2, 3)))
    assert bilinear.inputs == "float32 [2, 4], float32 [2, 3]"


def test_a_loss_sends_back_a_gradient_of_one():
    inputs = {"x": torch.ones(2, 4), "scale": torch.ones(3), "result": "loss"}
    (row,) = inspect_model(Two(), inputs).rows
    assert row.gradient_std == 1


def test_without_a_gradient_only_the_way_forwards_is_looked_at():
    said = ("no gradients: the outputs are integers or detached, or every parameter is frozen",)
    inputs = {"x": torch.randn(2, 4), "scale": torch.ones(3), "result": "ints"}
    found = inspect_model(Two(), inputs)
    assert found.problems == said and np.isnan(found.rows[0].gradient_std)
    model = mlp()
    assert inspect_model(model.requires_grad_(False)).problems == said
    model[8].requires_grad_(True)  # what is frozen need not learn
    assert inspect_model(model).problems == ()
    with torch.no_grad():
        assert inspect_model(model).problems == ()
    with torch.inference_mode():
        assert inspect_model(model).problems == ()


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
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
