"""The inputs that inspect_model runs a model on: guessed, asked for or given, and what its outputs are."""

import numpy as np
import pytest
import real_models
import torch
from inspected import mlp
from torch import nn

from convinit_ext import inspect_model


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
    said = ("no gradients: the outputs are empty, integers or detached, or every parameter is frozen",)
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
