"""Fixtures that run a test on every instruction set, device and thread count that this machine has."""

import importlib.util
import os
import sys

import pytest
import torch
from filling import Backend, available_backends, forced_isa
from torch._C import _len_torch_function_stack, _pop_torch_function_stack

from convinit_ext import _C

NUM_THREADS = range(1, 9)

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("few", max_examples=30, deadline=None)
    settings.register_profile("many", max_examples=1000, deadline=None)  # of ten properties: 10,000
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


def pytest_configure() -> None:
    """Beside others of pytest-xdist a process takes its share of the cores, and more than one thread."""
    if (num_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
        torch.set_num_threads(max(2, (os.cpu_count() or 1) // num_workers))
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(autouse=True)
def no_mode_stays():
    """A test that leaves one of PyTorch's modes active, or gradients off, fails, and none after it."""
    yield
    left = [_pop_torch_function_stack() for _ in range(_len_torch_function_stack())]
    has_gradients = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert not left and has_gradients


def pytest_sessionfinish() -> None:
    """Write down which lines ran, now: pytest-xdist kills a worker that has not ended after ten seconds."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and (running := coverage.Coverage.current()) is not None:
        running.save()


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest):
    """Each instruction set in turn, forced for the test; its name."""
    with forced_isa(request.param):
        yield request.param


def marked(backend: Backend) -> object:
    """`pytest -m gpu` runs what fills there."""
    return pytest.param(backend, marks=pytest.mark.gpu if backend.device == "cuda" else (), id=str(backend))


@pytest.fixture(params=[marked(backend) for backend in available_backends()])
def backend(request: pytest.FixtureRequest):
    """Each instruction set of the CPU, then each other device: fills there, and proves that it ran there."""
    with request.param.forced():
        yield request.param


@pytest.fixture(params=sorted({backend.device for backend in available_backends()}))
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=NUM_THREADS)
def num_threads(request: pytest.FixtureRequest):
    """One to eight threads, also where there are fewer cores: the split of the work is what changes."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def cpu() -> Backend:
    """The CPU with the instruction set that it chooses by itself."""
    return Backend("cpu", _C.isa())
