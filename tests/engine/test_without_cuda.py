"""What of CUDA can be tested without a GPU: refusals by a build without it, and while a graph is captured."""

import contextlib

import pytest
import torch
from planning import make_plan
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext import Key, Normal, init, init_model_, keys
from convinit_ext.__main__ import main
from convinit_ext._engine import HAS_CUDA, UnsupportedTensorError
from convinit_ext._engine import _checks as checks
from convinit_ext._engine import _ops as ops
from convinit_ext.init import _fill as fill
from convinit_ext.model import _options as options

no_cuda = pytest.mark.skipif(HAS_CUDA, reason="this build has CUDA")
HOW_TO_BUILD = r"this build has no CUDA.*CONVINIT_CUDA=1 pip install --no-build-isolation \."


@pytest.fixture
def fake_cuda_tensor(monkeypatch):
    """As much of a CUDA tensor as there can be without a GPU. Drawing a key for it is noticed."""

    def drawn(*_: object) -> None:
        raise AssertionError("a key was drawn")

    monkeypatch.setattr(fill, "draw", drawn)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.empty(4, 3, device="cuda:0")


@no_cuda
@pytest.mark.parametrize("function", ["normal_", "uniform_", "trunc_normal_", "orthogonal_", "sparse_"])
@pytest.mark.parametrize("given", [{}, {"key": Key(0, "w")}], ids=["generator", "key"])
def test_a_cuda_tensor_is_refused_and_nothing_drawn(fake_cuda_tensor, function, given) -> None:
    given = given | ({"sparsity": 0.5} if function == "sparse_" else {})
    with pytest.raises(UnsupportedTensorError, match=f"on cuda:0; {HOW_TO_BUILD}"):
        getattr(init, function)(fake_cuda_tensor, **given)


@no_cuda
def test_a_cuda_tensor_in_a_list_is_refused(fake_cuda_tensor) -> None:
    for given in ([fake_cuda_tensor], [fake_cuda_tensor, torch.empty(4)]):
        keys = torch.empty(len(given), 2, dtype=torch.int64)
        with pytest.raises(UnsupportedTensorError, match=HOW_TO_BUILD):
            ops.fill_(given, keys, [Normal()] * len(given))
        with pytest.raises(UnsupportedTensorError, match=f"cannot digest a tensor on cuda:0; {HOW_TO_BUILD}"):
            ops.digest(given[::-1], keys)


@no_cuda
def test_a_model_cannot_go_to_cuda() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=f"device 'cuda' cannot be filled: {HOW_TO_BUILD}"):
        init_model_(model, device="cuda")
    assert model.weight.is_meta


@pytest.fixture
def one_gpu(monkeypatch) -> None:
    monkeypatch.setattr(options, "HAS_CUDA", True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.usefixtures("one_gpu")
def test_a_model_cannot_go_to_a_gpu_that_is_not_there() -> None:
    assert options.checked_device("cuda") == torch.device("cuda")
    assert options.checked_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="device 'cuda:3': PyTorch sees 1 CUDA device"):
        options.checked_device("cuda:3")


@pytest.mark.usefixtures("one_gpu")
def test_memory_on_a_gpu_is_not_counted_as_the_cpus() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert make_plan(model, device="cuda").new_bytes == 0
    assert make_plan(model).new_bytes == 104


@no_cuda
def test_the_command_line_says_so(capsys) -> None:
    assert main(["run", "--model", "torch.nn:Identity", "--device", "cuda"]) == 1
    assert "this build has no CUDA" in capsys.readouterr().err
    assert main(["info"]) == 0
    assert "cuda                   not built" in capsys.readouterr().out


@pytest.fixture
def capturing(monkeypatch):
    """As if a graph were being captured on cuda:0, and on no other device."""
    current = [0]

    @contextlib.contextmanager
    def on(device: torch.device):
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[0] == 0)
    for module in (checks,):
        monkeypatch.setattr(module, "HAS_CUDA", True)


@pytest.mark.usefixtures("capturing")
def test_capture_is_that_of_the_tensors_device() -> None:
    with pytest.raises(RuntimeError, match="no"):
        keys.check_not_capturing(torch.device("cuda", 0), "no")
    keys.check_not_capturing(torch.device("cuda", 1), "no")
    keys.check_not_capturing(torch.device("cpu"), "no")


@pytest.mark.usefixtures("capturing")
@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["default", "passed"])
@pytest.mark.parametrize("function", ["normal_", "kaiming_uniform_", "trunc_normal_", "orthogonal_"])
def test_a_fill_without_a_key_is_refused_under_capture(fake_cuda_tensor, function, generator) -> None:
    said = "cannot be captured" if function == "orthogonal_" else r"key=convinit_ext\.Key"
    with pytest.raises(RuntimeError, match=said):
        getattr(init, function)(fake_cuda_tensor, generator=generator)


@pytest.mark.usefixtures("capturing")
def test_a_fill_on_the_cpu_is_never_captured() -> None:
    fill.fill_(torch.empty(3), Normal(), None, None)


@pytest.mark.usefixtures("capturing")
def test_a_compiled_draw_is_refused_under_capture() -> None:
    compiled = torch.compile(lambda tensor: init.normal_(tensor), backend="eager", fullgraph=True)
    # Or PyTorch refuses, from 2.14 on where it has CUDA, to compile then.
    with pytest.raises(RuntimeError, match=r"key=convinit_ext\.Key|during CUDA graph capture"):
        compiled(torch.empty(5))
