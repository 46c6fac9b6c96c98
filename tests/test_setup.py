"""setup.py's decisions: with CUDA or without, and for which GPUs."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch
from compiling import CSRC, CXX
from processes import run_python

import convinit_ext

SETUP = Path(__file__).parent.parent / "setup.py"


@pytest.fixture(scope="module")
def setup():
    specification = importlib.util.spec_from_file_location("setup_of_convinit_ext", SETUP)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("wish", "torch_cuda", "toolkit", "expected"),
    [
        (None, "13.0", (13, 0), True),
        ("", "13.0", (13, 0), True),
        ("1", "12.6", (12, 9), True),
        (None, "13.0", None, False),
        (None, None, (13, 0), False),
        (None, None, None, False),
        ("0", "13.0", (13, 0), False),
        ("0", "12.6", (13, 0), False),
    ],
)
def test_cuda_is_built_where_torch_and_a_toolkit_have_it(setup, wish, torch_cuda, toolkit, expected):
    assert setup.with_cuda(wish, torch_cuda, toolkit) is expected


@pytest.mark.parametrize(
    ("wish", "torch_cuda", "toolkit", "said"),
    [
        ("yes", "13.0", (13, 0), "CONVINIT_CUDA must be 1 .*, 0 .* or unset, not 'yes'"),
        ("1", None, (13, 0), "needs a torch with CUDA"),
        ("1", "13.0", None, "there is no nvcc"),
        (None, "13.0", (12, 8), r"torch is built for CUDA 13.0, but the toolkit is 12.8.*CUDA_HOME"),
        ("1", "12.6", (13, 0), r"torch is built for CUDA 12.6, but the toolkit is 13.0.*CONVINIT_CUDA=0"),
    ],
)
def test_what_cannot_be_built_is_said(setup, wish, torch_cuda, toolkit, said):
    with pytest.raises(SystemExit, match=said):
        setup.with_cuda(wish, torch_cuda, toolkit)


@pytest.mark.parametrize(
    ("toolkit", "expected"), [((11, 8), "7.5;8.0;8.6;9.0+PTX"), ((12, 8), "7.5;8.0;8.6;9.0;10.0;12.0+PTX")]
)
def test_architectures_are_those_the_toolkit_knows(setup, toolkit, expected):
    assert setup.architectures(toolkit) == expected


@pytest.mark.parametrize(
    ("chosen", "toolkit", "said"),
    [
        ("7.0;8.0", (12, 8), r"TORCH_CUDA_ARCH_LIST has 7.0: .* 7.5 \(sm_75\) or later"),
        ("7.0+PTX", (13, 0), r"has 7.0\+PTX: .* 7.5"),
        ("8.0 Volta", (12, 8), "has Volta: .* 7.5"),
        ("9.0;11.0", (12, 9), "has 11.0, which CUDA 12.9 does not know: it takes CUDA 13.0"),
        ("11.0a+PTX", (12, 9), r"has 11.0a\+PTX, .*CUDA 13.0"),
        ("Blackwell+Tegra", (12, 8), r"has Blackwell\+Tegra, .*CUDA 13.0"),
        ("12.1", (12, 8), "has 12.1, .*CUDA 12.9"),
    ],
)
def test_a_gpu_without_code_is_said(setup, chosen, toolkit, said):
    with pytest.raises(SystemExit, match=said):
        setup.check_architectures(chosen, toolkit)


def test_gpus_with_code_are_taken(setup):
    for chosen in ("7.5 8.0;9.0a;10.0+PTX", "11.0", "Turing;Ampere", "8.9", "12.0f"):
        setup.check_architectures(chosen, (13, 0))


@pytest.mark.parametrize(
    ("variable", "flags", "flag"),
    [
        ("NVCC_APPEND_FLAGS", "-lineinfo --use_fast_math", "--use_fast_math"),
        ("NVCC_PREPEND_FLAGS", "-use_fast_math", "-use_fast_math"),
        ("TORCH_NVCC_FLAGS", "-ftz=true", "-ftz=true"),
        ("NVCC_APPEND_FLAGS", "--ftz true", "--ftz true"),
        ("NVCC_APPEND_FLAGS", "-fmad=true", "-fmad=true"),
        ("NVCC_APPEND_FLAGS", "-prec-div=false", "-prec-div=false"),
        ("NVCC_APPEND_FLAGS", "-Xcompiler -ffast-math", "-ffast-math"),
        ("CXXFLAGS", "-Ofast", "-Ofast"),
        ("CFLAGS", "-O2 -ffp-contract=fast", "-ffp-contract=fast"),
    ],
)
def test_flags_that_change_values_are_refused(setup, variable, flags, flag):
    with pytest.raises(SystemExit, match=f"^{variable} has {flag}: values would have other bits"):
        setup.check_flags({variable: flags})


def test_other_flags_are_taken(setup):
    setup.check_flags(
        {"NVCC_APPEND_FLAGS": "-lineinfo -ftz=false --fmad=false", "CFLAGS": "-ffp-contract=off"}
    )


def test_sources_refuse_fast_math(tmp_path: Path):
    source = tmp_path / "fast.cpp"
    source.write_text('#include "core/macros.h"\n')
    command = [CXX or pytest.skip("no compiler"), "-std=c++17", f"-I{CSRC}", "-fsyntax-only", str(source)]
    assert subprocess.run(command).returncode == 0
    refused = subprocess.run([*command, "-ffast-math"], capture_output=True, text=True)
    assert refused.returncode != 0 and "must not be compiled with -ffast-math" in refused.stderr


def make_nvcc(folder: Path, says: str = "", to: int = 2) -> Path:
    """A bin/nvcc that says so; gives the folder. The real one says on stderr what it would do."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho '{says}' >&{to}\n")
    nvcc.chmod(0o755)
    return folder


def test_the_toolkit_tells_its_version(setup, tmp_path: Path):
    said = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.8, V12.8.93"
    assert setup.toolkit_version(str(make_nvcc(tmp_path / "cuda", said, to=1))) == (12, 8)
    assert setup.toolkit_version(None) is None
    assert setup.toolkit_version(str(tmp_path)) is None


def test_the_toolkit_is_where_nvcc_says(setup, tmp_path: Path):
    """An nvcc on PATH may be a script that calls the one of a toolkit elsewhere."""
    toolkit = make_nvcc(tmp_path / "cuda-13.0")
    script = make_nvcc(tmp_path / "local", f"#$ _HERE_={toolkit}/bin\n#$ TOP={toolkit}/bin/..")
    assert setup.toolkit_home(str(script)) == str(toolkit)


@pytest.mark.parametrize("says", ["", "nvcc fatal", "#$ TOP=/no/such/toolkit"])
def test_torch_guess_stands_where_nvcc_names_no_toolkit(setup, tmp_path: Path, says: str):
    assert setup.toolkit_home(str(make_nvcc(tmp_path, says))) == str(tmp_path)
    assert setup.toolkit_home(None) is None
    assert setup.toolkit_home("/no/such/folder") == "/no/such/folder"


def test_the_extension_with_cuda(setup, monkeypatch):
    """Its sources, flags and libraries; nothing is compiled. TORCH_CUDA_ARCH_LIST is respected."""
    monkeypatch.setattr(setup.cpp_extension, "CUDA_HOME", "/no/such/toolkit")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.9 9.0a")
    made = setup.extension((13, 0))
    kernels = [source for source in made.sources if source.endswith(".cu")]
    assert kernels and all(source.startswith("csrc/cuda/") for source in kernels)
    assert "csrc/torch/ops_cuda.cpp" in made.sources
    assert ("CONVINIT_CUDA", '"13.0 for 8.9 9.0a"') in made.define_macros
    assert "--fmad=false" in made.extra_compile_args["nvcc"]
    assert "-ffp-contract=off" in made.extra_compile_args["cxx"]
    assert {"cudart_static", "torch_cuda"} <= set(made.libraries) and "cudart" not in made.libraries
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    macros = dict(setup.extension((12, 8)).define_macros)
    assert macros["CONVINIT_CUDA"] == '"12.8 for 7.5 8.0 8.6 9.0 10.0 12.0+PTX"'


def test_the_extension_without_cuda(setup):
    made = setup.extension(None)
    assert not [name for name in (*made.sources, *made.libraries) if "cuda" in name]
    assert "CONVINIT_CUDA" not in dict(made.define_macros)


def test_the_version_says_with_which_toolkit_it_is_built(setup):
    """So that a wheel with CUDA and one without can lie side by side; sources are for both."""
    public = convinit_ext.__version__
    assert setup.version(None, ["setup.py", "bdist_wheel"]) == public
    assert setup.version((13, 0), ["setup.py", "bdist_wheel"]) == f"{public}+cu130"
    assert setup.version((13, 0), ["setup.py", "egg_info", "sdist"]) == public


needs_no_cuda = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("on", "CONVINIT_CUDA must be 1 (with CUDA), 0 (without) or unset, not 'on'"),
        pytest.param("1", "CONVINIT_CUDA=1 needs a torch with CUDA, and torch 2.", marks=needs_no_cuda),
    ],
)
def test_what_cannot_be_built_is_one_sentence(wish: str, said: str):
    result = run_python("setup.py", "--version", CONVINIT_CUDA=wish)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "cpp_extension" not in line]  # PyTorch's own
    assert len(lines) == 1 and lines[0].startswith(said)


def test_the_paths_of_the_extension_are_relative_and_its_headers_known(setup):
    """setuptools says a line about every absolute one, and leaves it out of an sdist."""
    found = setup.extension(None)
    root = SETUP.parent
    headers = {str(path.relative_to(root)) for end in ("h", "inl") for path in root.glob(f"csrc/**/*.{end}")}
    assert {"csrc/core/philox.h", "csrc/cpu/fill_loop.inl"} <= headers == set(found.depends)
    assert all((root / path).is_file() and not Path(path).is_absolute() for path in found.sources)
