"""The layers hold: imports and includes point down only; code for one instruction set stays in its file."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import CALLED, CSRC, CXX
from processes import ROOT

PACKAGE = ROOT / "convinit_ext"
MODULES = sorted(PACKAGE.rglob("*.py"))
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# What a file of each folder may include: folders of csrc, and headers from outside.
STANDARD = "[a-z_]+"  # no folder, no ending
FOLDERS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "torch": {"core", "cpu", "cuda", "torch"},
}
OUTSIDE = {
    "core": re.compile(STANDARD),
    "cpu": re.compile(rf"{STANDARD}|[a-z]mmintrin\.h|arm_neon\.h|cpuid\.h|sys/mman\.h"),
    "cuda": re.compile(rf"{STANDARD}|cuda\w*\.h"),  # never torch
}
# All of torch that the ops may see: its stable ABI.
STABLE_ABI = re.compile(r"torch/(csrc/(stable|inductor/aoti_torch/c)|headeronly)/.*")


def layer(path: Path) -> str:
    return path.parent.name


def includes(path: Path) -> list[tuple[bool, str]]:
    """(whether in angle brackets, name) of every header that a file includes."""
    return [(bracket == "<", name) for bracket, name in INCLUDE.findall(path.read_text())]


SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".inl", ".cu"))


def test_no_file_is_long():
    """But for the one whose functions' docstrings are their documentation."""
    files = [path for folder in (PACKAGE, CSRC, ROOT / "tests") for path in folder.rglob("*.*")]
    code = {path for path in files if path.suffix in (".py", ".pyi", ".h", ".cpp", ".inl", ".cu")}
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in code}
    lengths.pop("convinit_ext/init/__init__.py")
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_imports_point_down():
    """The contracts are in pyproject.toml; a new module belongs to a layer there."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports as lint; raise SystemExit(lint(no_cache=True))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_ops_calls_the_compiled_ops():
    users = {
        str(path.relative_to(PACKAGE)) for path in MODULES if "torch.ops.convinit_ext" in path.read_text()
    }
    assert users <= {"_engine/_ops.py", "init/_compiled.py"}  # the other's op is its own, in Python


def room(name: str) -> str:
    """Of a module's name: "model" of convinit_ext.model._run."""
    return name.split(".")[1] if name.startswith("convinit_ext.") else ""


def test_other_rooms_are_entered_by_their_door():
    """What a room lists in its __init__ is what others may use; its other files start with an underscore."""
    for path in MODULES:
        own = path.parent.name if path.parent != PACKAGE else ""
        assert not own or path.name.startswith("_"), f"{path}: a room's file starts with an underscore"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and room(node.module) != own:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                inside = [
                    name for name in names if room(name) and re.search(r"\._[a-z]", name.partition(".")[2])
                ]
                inside = [name for name in inside if name.partition(".")[2] not in ("_engine", "_build")]
                assert not inside, f"{path}: {inside} is inside another room"


def test_a_room_lists_what_others_use():
    docs = "".join(path.read_text() for path in ROOT.glob("docs/api/*.md"))
    nodes = ((path, node) for path in MODULES for node in ast.walk(ast.parse(path.read_text())))
    imports = [(path, node) for path, node in nodes if isinstance(node, ast.ImportFrom)]
    for own in ("_engine", "checkpoint", "inspection", "intercept", "model", "sharding"):
        door = [node for path, node in imports if path == PACKAGE / own / "__init__.py"]
        outside = [node for path, node in imports if path.parent != PACKAGE / own]
        used = {
            alias.name for node in outside for alias in node.names if node.module == f"convinit_ext.{own}"
        }
        listed = {alias.asname or alias.name for node in door for alias in node.names}
        assert {name for name in listed - used if f"convinit_ext.{own}.{name}\n" not in docs} == set()


def imported(source: str) -> set[str]:
    """Packages and modules that a module imports wherever it is imported itself, but for what it asks for."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    asked = re.findall(r'^pytest\.importorskip\("(\w+)', source, re.MULTILINE)
    return {name.partition(".")[0] for name in names} - set(asked)


def test_tests_import_no_more_than_a_machine_with_a_gpu_may_have():
    """A module that cannot be imported ends the run of all of them. What else one wants it asks for with
    pytest.importorskip.
    """
    own = {
        path.stem for folder in ("tests", "benchmarks", "examples") for path in ROOT.glob(f"{folder}/**/*.py")
    }
    known = {*sys.stdlib_module_names, "convinit_ext", "numpy", "pytest", "safetensors", "torch", *own}
    wanted = {path.name: imported(path.read_text()) - known for path in ROOT.glob("tests/**/*.py")}
    assert {name: more for name, more in wanted.items() if more} == {}


def test_includes_point_down():
    for path in SOURCES:
        allowed = OUTSIDE.get(layer(path))
        for is_outside, name in includes(path):
            if not is_outside:
                assert name.rpartition("/")[0] in FOLDERS[layer(path)], f"{name} is not below {path}"
                assert (CSRC / name).is_file(), f"{path}: {name} is given from csrc/, with its folder"
            elif allowed is not None:
                assert allowed.fullmatch(name), f"{path}: <{name}> has no place in csrc/{layer(path)}"
            elif name.startswith(("torch/", "ATen/", "c10/")):
                assert STABLE_ABI.fullmatch(name), f"{path}: <{name}> is not part of the stable ABI"


@pytest.mark.skipif(CXX is None, reason="no compiler")
def test_headers_below_torch_stand_alone():
    """Each header, compiled by itself, includes what it uses, and needs no nvcc."""
    headers = [str(path) for path in SOURCES if path.suffix == ".h" and layer(path) in OUTSIDE]
    compile_with(["-x", "c++", "-fsyntax-only", *headers])


def test_the_check_for_nvcc_includes_all_of_core():
    names = {f"core/{path.name}" for path in (CSRC / "core").glob("*.h")}
    assert {name for _, name in includes(ROOT / "tests" / "cuda" / "core_compiles.cu")} == names


def compile_with(arguments: list[str]) -> None:
    command = [CXX, "-std=c++17", "-ffp-contract=off", CALLED, f"-I{CSRC}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(CXX is None or shutil.which("nm") is None, reason="needs a compiler and nm")
@pytest.mark.parametrize("isa", sorted(path.stem for path in (CSRC / "cpu").glob("fill_*.cpp")))
def test_no_symbol_of_an_instruction_set_is_shared(isa: str, tmp_path: Path):
    """A function that two files define, inline or from a template, is linked once, from either file. Were one
    of them compiled for AVX-512, other machines would meet its instructions. So such a file defines its table
    and nothing else.
    """
    compiled = tmp_path / "fill.o"
    # Unoptimised: every function that is neither static nor always inlined is there to be seen.
    compile_with(["-O0", "-c", str(CSRC / "cpu" / f"{isa}.cpp"), "-o", str(compiled)])
    listing = subprocess.run(
        ["nm", "-C", "--defined-only", "-g", str(compiled)], capture_output=True, text=True
    )
    symbols = [line.split(maxsplit=2)[2] for line in listing.stdout.splitlines()]
    shared = [symbol for symbol in symbols if not symbol.startswith("DW.ref.")]  # pointers, no code
    assert len(shared) <= 1, shared
    assert all(re.fullmatch(r"convinit::k\w+Table", symbol) for symbol in shared), shared
