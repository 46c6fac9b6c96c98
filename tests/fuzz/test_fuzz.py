"""What fuzzing once found is mended, and a few hundred more cases find nothing: fuzz.py."""

from __future__ import annotations

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


def test_crashes_hangs_unclear_errors_and_late_ones_are_found(monkeypatch, tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text(f"""
import os, sys, time
sys.path.append({str(Path(__file__).parent)!r})
import fuzz

def late(tensor):
    tensor.fill_(1)
    raise ValueError("too late")

fuzz.CALLS = {{"crash": lambda: os.abort(), "hang": lambda: time.sleep(60), "late": late, "right": lambda: 1}}
fuzz.CALLS["unclear"] = lambda: None.shape
fuzz.work()
""")
    monkeypatch.setattr(fuzz, "__file__", str(program))
    monkeypatch.setattr(fuzz, "SECONDS", 15)
    calls = ("right", "unclear", "crash", "late", "right", "hang")
    cases = [
        {"call": name, "arguments": {"tensor": "torch.zeros(3)"} if name == "late" else {}} for name in calls
    ]
    found = {case["call"]: text for case, text in fuzz.findings(cases)}
    assert found.keys() == {"unclear", "crash", "late", "hang"}
    assert "no attribute" in found["unclear"] and "status -6" in found["crash"]
    assert "after a write" in found["late"] and found["hang"] == "took too long"
