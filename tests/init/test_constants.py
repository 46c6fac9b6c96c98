"""A constant is assigned once: another further down would change what the functions above it mean. The GPU's
tests run nowhere but on a GPU, so nothing else would tell.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path
    for folder in ("benchmarks", "convinit_ext", "examples", "tests")
    for path in ROOT.glob(f"{folder}/*.py")
)


def constants(source: str) -> list[str]:
    """Names in capitals that a module assigns at its top, as often as it does."""
    assigned = [node for node in ast.parse(source).body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    names = [
        name.id
        for node in assigned
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    ]
    return [name for name in names if name.isupper()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_constant_is_assigned_twice(path: Path):
    assert [name for name, times in Counter(constants(path.read_text())).items() if times > 1] == []


def test_a_second_assignment_is_seen():
    assert constants("A, B = 1, 2\nc = 3\nA: int = 4\nC[0] = 5\n") == ["A", "B", "A"]
