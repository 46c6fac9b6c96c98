"""Init code may write parameters by other ways than by in-place calls on them: none goes unseen."""

import contextlib

import numpy as np
import pytest
import torch
from test_model_code import SAID, built
from torch import nn

from convinit_ext import init, init_model_, plan_model, verify


def by_data(m):
    m.p0.data = m.p0.data / 4


def by_the_same_memory(m):
    m.p0.data.copy_(torch.tril(torch.ones(4, 4, device=m.p0.device)))
    m.p0.data = m.p0.data.t()


def by_a_list(m):
    torch._foreach_mul_([m.p1, m.p0], 0.25)


def by_out(m):
    torch.mul(m.p0, 0.25, out=m.p0.data)


def by_swapping(m):
    torch.utils.swap_tensors(m.p0, nn.Parameter(m.p0 / 4))


def by_kind_of_device(m):
    if m.p0.device.type != "meta":
        m.p0.mul_(0.25)


def by_being_on_the_cpu(m):
    if m.p0.is_cpu:
        m.p0.mul_(0.25)


def by_this_packages(m):
    init.trunc_normal_(m.p0, mean=0.25, std=0.0)


CODES = (
    by_data,
    by_a_list,
    by_out,
    by_swapping,
    by_kind_of_device,
    by_being_on_the_cpu,
    by_this_packages,
    by_the_same_memory,
)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("last", CODES)
def test_what_it_writes_last_counts(last, device):
    def code(module: nn.Module) -> None:
        with torch.no_grad():
            nn.init.ones_(module.p0)
            nn.init.ones_(module.p1)
            last(module)

    model = built(device, code, (4, 4), (3,))
    assert init_model_(model, seed=1).rows[0].initialiser == SAID
    expected = torch.ones(4, 4).triu() if last is by_the_same_memory else torch.full((4, 4), 0.25)
    assert torch.equal(model.inner[0].p0.detach(), expected)
    assert verify(model, seed=1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("fill", [init.orthogonal_, lambda p: init.sparse_(p, 0.5)])
def test_this_packages_functions_that_do_nothing_on_meta_are_seen(fill, device):
    model = built(device, lambda module: fill(nn.init.zeros_(module.p0)), (8, 8))
    init_model_(model, seed=1)
    assert model.inner[0].p0.count_nonzero() == (64 if fill is init.orthogonal_ else 32)


class Listed(nn.Module):
    """Holds its own parameters, another module and a table where no copy of it looks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
        self.listed = [self.gain]
        self.hidden, self.table = [nn.Linear(2, 2)], torch.ones(3)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.gain)
        for each in self.listed:
            nn.init.normal_(each)


class Elsewhere(Listed):
    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.5)
        nn.init.constant_(self.gain, 0.25)
        self.table.mul_(torch.from_numpy(np.full(3, 7.0, "f4")).add_(1))
        nn.init.zeros_(self.hidden[0].weight)


class ByData(Listed):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gain)
        self.listed[0].data = torch.zeros(4)


class ByBuffers(Listed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(3), persistent=False)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.5)
        nn.init.constant_(self.gain, 0.25)

    def _init_buffers(self) -> None:
        self.steps.copy_(torch.arange(3.0))
        nn.init.zeros_(self.listed[0])


def held(model: Listed) -> list[torch.Tensor]:
    return [model.weight, model.gain, model.hidden[0].weight, model.table]


DOORS = {
    "verify": verify,
    "plan_model": lambda model: plan_model(model).fingerprint(),
    "dry_run": lambda model: init_model_(model, dry_run=True),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [Listed, Elsewhere, ByData, ByBuffers])
def test_asking_a_models_own_code_changes_nothing_of_the_model(kind, door):
    model = kind()
    before = [each.detach().clone() for each in held(model)]
    memory = [each.data_ptr() for each in held(model)]
    with contextlib.suppress(ValueError):
        DOORS[door](model)
    assert all(torch.equal(*pair) for pair in zip(before, held(model), strict=True))
    assert memory == [each.data_ptr() for each in held(model)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_it_writes_into_the_model_itself_is_not_taken_for_the_copys(device):
    with torch.device(device):
        model = Listed()
    with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  gain"):
        init_model_(model)


def test_what_it_writes_elsewhere_does_not_matter():
    model = Elsewhere()
    init_model_(model)
    assert model.weight.unique() == 0.5
    assert model.gain.unique() == 0.25
    assert model.table.unique() == 1
