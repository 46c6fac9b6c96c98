"""A constant is assigned once: another further down would change what the functions above it mean. The GPU's
tests run nowhere but on a GPU, so nothing else would tell.
"""

import ast
from collections import Counter

from processes import ROOT

MODULES = sorted(
    path
    for folder in ("benchmarks", "convinit_ext", "examples", "tests")
    for path in ROOT.glob(f"{folder}/**/*.py")
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


def test_no_constant_is_assigned_twice():
    assert constants("A, B = 1, 2\nc = 3\nA: int = 4\nC[0] = 5\n") == ["A", "B", "A"]
    for path in MODULES:
        counted = Counter(constants(path.read_text()))
        assert {name: times for name, times in counted.items() if times > 1} == {}, path
