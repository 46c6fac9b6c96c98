"""Building and loading: what a user meets when torch, the compiled part or an instruction set is missing."""

import platform
import shutil
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from processes import ROOT, last_line, run_python

from convinit_ext import _C

PACKAGE = ROOT / "convinit_ext"

# Where the package is installed for editing, its finder would still find the compiled part.
NO_FINDER = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in repr(f)]"


def copy_package(to: Path) -> Path:
    """The package's Python files alone, not the compiled one."""
    package = to / "convinit_ext"
    for path in PACKAGE.rglob("*.py"):
        copied = package / path.relative_to(PACKAGE)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    return package


def bare_python(folder: Path) -> str:
    """A Python that has setuptools and nothing else."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    ours = Path(sysconfig.get_path("purelib"))
    for path in (*ours.glob("setuptools*"), ours / "_distutils_hack"):
        (site / path.name).symlink_to(path)
    return str(folder / "bin" / "python")


def refusal_of_setup(**where: str) -> str:
    result = run_python("setup.py", "--version", **where)
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    return line


def test_a_build_without_torch_says_what_to_type(tmp_path: Path):
    line = refusal_of_setup(python=bare_python(tmp_path))
    assert "there is none: pip install torch, then pip install --no-build-isolation ." in line


def test_a_build_that_torch_is_hidden_from_says_so(tmp_path: Path):
    """As pip's build isolation hides it: it is installed, and cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    line = refusal_of_setup(PYTHONPATH=str(tmp_path))
    assert line.endswith("build isolation hides it: pip install --no-build-isolation .")


def test_a_build_with_old_setuptools_says_what_to_type(tmp_path: Path):
    """Before it reads pyproject.toml, of which it would say pages."""
    (tmp_path / "setuptools.py").write_text('__version__ = "63.4.0"')
    line = refusal_of_setup(PYTHONPATH=str(tmp_path))
    assert "setuptools 64 or later, and setuptools 63.4.0 is installed: pip install 'setuptools>=64'" in line


def test_an_import_without_what_it_needs_is_one_sentence(tmp_path: Path):
    result = run_python("-c", "import convinit_ext", python=bare_python(tmp_path))
    said = "ImportError: convinit_ext needs torch, numpy and safetensors, and torch, numpy, safetensors"
    assert last_line(result.stderr) == f"{said} are not installed: pip install torch numpy safetensors"
    result = run_python("-c", "import sys; sys.modules['numpy'] = None; import convinit_ext")
    assert last_line(result.stderr).endswith("and numpy is not installed: pip install numpy")


def test_build_requirements_leave_torch_to_the_user():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert "torch" not in next(line for line in lines if line.startswith("requires ="))


@pytest.mark.parametrize("built", [True, False], ids=["spoilt", "absent"])
def test_a_failed_load_is_one_error_that_names_all_versions(tmp_path: Path, built: bool):
    package = copy_package(tmp_path)
    if built:
        (package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").write_text("not a shared library")
        (package / "_build.py").write_text(
            'TORCH_VERSION = "2.11.0+of_another_machine"\nPYTHON_VERSION = "3.9"\n'
        )
    else:
        (package / "_build.py").unlink(missing_ok=True)
    result = run_python("-c", f"{NO_FINDER}; import convinit_ext", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    error = last_line(result.stderr)
    assert error.startswith("ImportError: convinit_ext")
    assert f"under Python {platform.python_version()} and torch {torch.__version__}" in error
    built_for = "built for Python 3.9 (and no other) and torch 2.11.0+of_another_machine"
    assert (built_for if built else "never built") in error
    assert "pip install --no-build-isolation ." in error


def test_sources_that_hide_an_installed_package_say_so(tmp_path: Path):
    """As where Python is started in the folder of the sources, after `pip install .` there."""
    copy_package(tmp_path)
    (tmp_path / "setup.py").touch()
    result = run_python("-c", f"{NO_FINDER}; import convinit_ext", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    said = f"ImportError: convinit_ext's sources in {tmp_path} have no compiled part, and hide an installed"
    assert last_line(result.stderr).startswith(said)
    assert "start Python in another folder, or compile it there with: pip install" in result.stderr


def test_build_info_names_the_build():
    info = _C.build_info()
    assert info["compiler"] and info["torch"].startswith("2.") and "cuda" in info


def test_what_is_not_used_is_not_imported():
    """torch leaves its compiler and meshes out until they are used: they take longer than all else of it."""
    code = """
import sys, torch, convinit_ext
rooms = {f"convinit_ext.{room}" for room in ("model", "recipes", "checkpoint", "inspection")}
assert not rooms & sys.modules.keys()  # the drop-in functions need none of them
assert set(convinit_ext.__all__) <= set(dir(convinit_ext))
model = torch.nn.Linear(4, 4)
convinit_ext.init_model_(model)
with convinit_ext.intercept(model, seed=0):
    model.reset_parameters()
assert convinit_ext.verify(model, seed=1) is not None
convinit_ext.fingerprint(model)
with torch.device("meta"):
    model = torch.nn.Conv2d(3, 4, 3)
convinit_ext.init_model_(model, dtype=torch.bfloat16)
others = ["torch._dynamo", "torch.distributed.tensor", "torch._inductor", "sympy", "scipy", "matplotlib"]
others += ["transformers", "timm", "torchvision"]
convinit_ext.inspect_model, convinit_ext.Inspection
print([name for name in others if name in sys.modules])
assert convinit_ext.recipes.Recipe and convinit_ext.model.init_model_ is convinit_ext.init_model_
from convinit_ext import *
assert intercept is convinit_ext.intercept and inspect_model is convinit_ext.inspect_model
assert callable(save_model) and not hasattr(convinit_ext, "other") and not hasattr(convinit_ext, "inspect")
"""
    result = run_python("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


@pytest.mark.parametrize("isa", [None, *_C.available_isas()[:-1]])
def test_an_instruction_set_is_the_best_or_that_of_the_environment(isa: str | None):
    fill = "import torch; from convinit_ext import _C, init; init.normal_(torch.empty(9))"
    forced = {} if isa is None else {"CONVINIT_ISA": isa}
    result = run_python("-c", f"{fill}; print(_C.isa(), _C.last_isa())", **forced)
    assert result.stdout.split() == [isa or _C.available_isas()[-1]] * 2, result.stderr


def test_an_unknown_instruction_set_is_a_clear_error():
    result = run_python("-c", "import convinit_ext", CONVINIT_ISA="sse9")
    error = last_line(result.stderr)
    assert "ValueError" in error and '"sse9"' in error
    assert all(isa in error for isa in _C.available_isas())


@pytest.mark.slow
def test_install_as_a_user_does(tmp_path: Path):
    """`pip install --no-build-isolation .` builds, and installs the package, its data and nothing else."""
    site, settings = tmp_path / "site", tmp_path / "settings.cfg"
    settings.write_text(f"[build]\nbuild_lib = {tmp_path / 'lib'}\n")  # none of an earlier build's files
    command = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", str(site), ".")
    result = run_python(*command, DIST_EXTRA_CONFIG=str(settings))
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"convinit_ext"}
    installed = {
        path.relative_to(site) for path in (site / "convinit_ext").rglob("*") if path.suffix != ".pyc"
    }
    ours = {path.relative_to(ROOT) for end in ("py", "pyi", "typed") for path in PACKAGE.rglob(f"*.{end}")}
    compiled = {Path("convinit_ext", f"_C{sysconfig.get_config_var('EXT_SUFFIX')}")}
    assert {path for path in installed if (site / path).is_file()} == ours | compiled
    code = "import convinit_ext, torch; convinit_ext.init.ones_(torch.empty(3)); print(convinit_ext.__file__)"
    result = run_python("-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert result.stdout.strip() == str(site / "convinit_ext" / "__init__.py"), result.stderr
