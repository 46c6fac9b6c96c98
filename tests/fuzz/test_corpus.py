"""What fuzzing once found is mended, and a few hundred more cases find nothing: fuzz.py."""

import json
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import fuzz


def test_what_was_found_once_is_mended():
    cases = [json.loads(line) for line in fuzz.CORPUS.read_text().splitlines()]
    assert fuzz.findings(cases) == []


def test_a_few_cases_find_nothing():
    choose = random.Random(0)
    cases = [made(choose) for _ in range(100) for made in (fuzz.made_call, fuzz.made_file)]
    assert fuzz.findings(cases) == []


def test_crashes_unclear_errors_and_late_ones_are_found(monkeypatch, tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text(f"""
import os, sys
sys.path.append({str(Path(__file__).parent)!r})
import fuzz

def late(tensor):
    tensor.fill_(1)
    raise ValueError("too late")

fuzz.CALLS = {{"crash": lambda: os.abort(), "late": late, "right": lambda: 1}}
fuzz.CALLS["unclear"] = lambda: None.shape
fuzz.work()
""")
    monkeypatch.setattr(fuzz, "__file__", str(program))
    calls = ("right", "unclear", "crash", "late", "right")
    cases = [
        {"call": name, "arguments": {"tensor": "torch.zeros(3)"} if name == "late" else {}} for name in calls
    ]
    found = {case["call"]: text for case, text in fuzz.findings(cases)}
    assert found.keys() == {"unclear", "crash", "late"}
    assert "no attribute" in found["unclear"] and "status -6" in found["crash"]
    assert "after a write" in found["late"]


def test_a_hang_is_found(monkeypatch, tmp_path):
    program = tmp_path / "hangs.py"
    program.write_text("import time\nprint(0, flush=True)\nprint(1, flush=True)\ntime.sleep(60)")
    monkeypatch.setattr(fuzz, "__file__", str(program))
    monkeypatch.setattr(fuzz, "SECONDS", 3)
    cases = [{"call": "right"}, {"call": "hangs"}]
    assert fuzz.findings(cases) == [(cases[1], "took too long")]
