"""Many threads at once find what one thread finds, also where no lock of Python's keeps them apart."""

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from processes import ROOT
from torch import nn

from convinit_ext import Key, fingerprint, init, init_model_, intercept, plan_model, verify

NUM_THREADS, ROUNDS = 8, 5


class Drawn(nn.Module):
    """Its own code draws as no distribution of this package does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 64))

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for row in self.weight:
                row.copy_(torch.rand(64) * torch.rand(64))


def build() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LSTM(16, 4), nn.Linear(300, 300), norm)


def fill(number: int) -> list[float]:
    small, large = torch.empty(50), torch.empty(300, 300)
    for each in (small, large):
        init.kaiming_normal_(each.view(2, -1), key=Key(number, "fill"))
    generator = torch.Generator().manual_seed(number)
    init.trunc_normal_(small[:25], generator=generator)
    return [small.sum().item(), large.sum().item()]


def plan(number: int) -> str:
    return plan_model(build(), seed=number, recipe="he").fingerprint()


def initialise(number: int) -> str:
    model = build()
    init_model_(model, seed=number, recipe="xavier")
    assert verify(model, seed=number, recipe="xavier")
    return fingerprint(model)


def take_over(number: int) -> str:
    """A block of this thread's own, in which a model changes, beside threads that have none."""
    model = build()
    with intercept(model, seed=number):
        model[3] = nn.Linear(300, 300)
        for each in model[:4]:
            each.reset_parameters()
        nn.init.orthogonal_(model[3].weight)
    return fingerprint(model[:4])


def leave_to_torch(number: int) -> float:
    """PyTorch's numbers, where another thread's functions of torch.nn.init are answered."""
    return (
        nn.init.xavier_normal_(torch.empty(9, 9), generator=torch.Generator().manual_seed(number))
        .sum()
        .item()
    )


def draw(number: int) -> str:
    with torch.device("meta"):  # nobody else may draw from PyTorch's generator meanwhile
        model = Drawn()
    init_model_(model, seed=number)
    return fingerprint(model)


@pytest.fixture
def _often_interrupted() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_often_interrupted")
@pytest.mark.parametrize(
    "works", [(fill, plan, initialise, take_over, leave_to_torch), (draw,)], ids=["all", "drawn"]
)
def test_threads_do_what_one_does(works: tuple[Callable[[int], object], ...]):
    tasks = [(works[number % len(works)], number) for number in range(NUM_THREADS)]
    expected = [work(number) for work, number in tasks]
    found: list[object] = [None] * NUM_THREADS
    together = threading.Barrier(NUM_THREADS)

    def run(place: int) -> None:
        work, number = tasks[place]
        together.wait()
        try:
            found[place] = next(
                (each for _ in range(ROUNDS) if (each := work(number)) != expected[place]), None
            )
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None] * NUM_THREADS


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has its lock")
def test_the_import_does_not_bring_the_lock_back():
    code = "import sys, convinit_ext._C; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
