"""Init code may write parameters by other ways than by in-place calls on them: none goes unseen."""

import pytest
import torch
from test_model_code import SAID, built
from torch import nn

from convinit_ext import init, init_model_, verify


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
