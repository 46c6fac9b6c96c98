"""The scripts of benchmarks/quality: a tiny run, what they would find if samples were wrong, their page."""

import itertools
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

import batteries
import common
import pages

from convinit_ext import Key, init

# Reads 40 words, and says what SmallCrush's program says of them.
BATTERY = """#!{python}
import sys
words = sys.stdin.buffer.read(160)
print("= first word | 0." + str(int.from_bytes(words[:4], "little")))
print("= weak | 0.001")
print("= weak | 0.4")
"""


@pytest.fixture
def battery(tmp_path) -> str:
    program = tmp_path / "battery"
    program.write_text(BATTERY.format(python=sys.executable))
    program.chmod(0o755)
    return str(program)


def test_a_battery_reads_the_streams_and_weak_p_values_are_looked_at_again(tmp_path, battery):
    output = tmp_path / "stream.json"
    batteries.main(["--tests", "--smallcrush", battery, "--only", "one key", "--output", str(output)])
    record = json.loads(output.read_text())
    first, weak, other = record["results"][:3]
    word = next(batteries.words_of("one key", 0)).item(0)
    assert first == {
        "battery": "SmallCrush",
        "stream": "one key",
        "test": "first word",
        "p": float(f"0.{word}"),
    }
    assert weak["test"] == "weak" and weak["fresh"] == dict.fromkeys(map(str, common.FRESH_SEEDS), 0.001)
    assert other["test"] == "weak #2" and "fresh" not in other
    assert "dieharder" not in record["environment"] and "python " in record["command"]
    assert record["minutes"].keys() == {"SmallCrush, one key", "SmallCrush, bits reversed, one key"}
    text = "\n".join(pages.stream_tables(record))
    assert "| one key | 6 | 0.001 | " in text
    assert "- SmallCrush, weak, one key: 0.001; on fresh seeds 0.001, 0.001, 0.001" in text


@pytest.mark.parametrize("stream", batteries.SAMPLES)
def test_finished_samples_are_words(stream):
    """Two samples make a word, the first one in its low half; the next chunk goes on."""
    stats = pytest.importorskip("scipy.stats")
    kind, dtype = batteries.SAMPLES[stream]
    exact = {"uniform": stats.uniform(), "normal": stats.norm(), "truncated_normal": stats.truncnorm(-2, 2)}
    chunks = list(itertools.islice(batteries.words_of(stream, 7), 2))
    whole = torch.empty(4 * len(chunks[0]), dtype=getattr(torch, dtype))
    fill_ = {"uniform": init.uniform_, "normal": init.normal_, "truncated_normal": init.trunc_normal_}[kind]
    fill_(whole, key=Key(7, f"{kind}.torch.{dtype}"))
    place = np.floor(exact[kind].cdf(whole.double().numpy()) * 2**16).astype(np.int64)
    assert np.abs(place[0::2] + (place[1::2] << 16) - np.concatenate(chunks)).max() <= 1 + 2**16


# Says what it was asked for, in dieharder's own lines, which cut long names; one test is weak.
DIEHARDER = """#!{python}
import sys
if "-l" in sys.argv:
    print("#  dieharder version 3.31.1 Copyright 2003 Robert G. Brown  #")
else:
    open({log!r}, "a").write(" ".join(sys.argv[3:]) + chr(10))
    sys.stdin.buffer.read(40)
    for width in (1, 2, 2) if "-a" in sys.argv or "sts_serial" in sys.argv else ():
        print(f"          sts_serial|   {{width}}|    100000|     100|0.{{width}}|  PASSED  ")
    if "-a" in sys.argv or "diehard_count_1s_stream" in sys.argv:
        print("diehard_count_1s_str|   0|    256000|     100|0.99990000|   WEAK   ")
"""


def test_of_all_of_dieharder_only_weak_tests_are_looked_at_again(tmp_path, monkeypatch):
    program, log, output = tmp_path / "dieharder", tmp_path / "log", tmp_path / "found.json"
    program.write_text(DIEHARDER.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    batteries.main(["--full", "--go-on", "--only", "one key", "--output", str(output)])
    rows = {row["test"]: row for row in json.loads(output.read_text())["results"]}
    assert [*rows] == ["sts_serial 1", "sts_serial 2", "sts_serial 2 #2", "diehard_count_1s_str 0"]
    assert [name for name, row in rows.items() if "fresh" in row] == ["diehard_count_1s_str 0"]
    assert rows["diehard_count_1s_str 0"]["fresh"] == dict.fromkeys(map(str, common.FRESH_SEEDS), 0.9999)
    again = ["-d diehard_count_1s_stream -n 0"] * len(common.FRESH_SEEDS)  # whose name is printed cut
    assert log.read_text().splitlines() == ["-a", *again]
    found = batteries.dieharder("-a", "one key", 0, ["sts_serial 2 #2", "sts_serial 2"])
    assert [name for name, _ in found] == ["sts_serial 1", "sts_serial 2", "sts_serial 2 #2"]


@pytest.mark.skipif(shutil.which("dieharder") is None, reason="there is no dieharder")
def test_dieharder_reads_a_stream(tmp_path):
    output = tmp_path / "stream.json"
    batteries.main(["--tests", "3 -t 100 -p 2", "--only", "8 shards of one key", "--output", str(output)])
    (row,) = json.loads(output.read_text())["results"]
    assert row["test"] == "diehard_rank_6x8 0" and 0 <= row["p"] <= 1


@pytest.mark.parametrize(("ends", "said"), [("sys.exit(3)", "status 3"), ("pass", "no p-value")])
def test_a_battery_that_fails_or_says_nothing_is_an_error(tmp_path, battery, ends, said):
    Path(battery).write_text(f"#!{sys.executable}\nimport sys\n{ends}\n")
    with pytest.raises(RuntimeError, match=said):
        batteries.crush(battery, (), "one key", 0)


def test_a_battery_may_have_enough_in_the_midst_of_a_write(battery):
    """All but a page of an array is read or in the pipe, and what is left is in the writer's buffer."""
    size = next(batteries.words_of("one key", 0)).nbytes - (1 << 16) - (1 << 12)
    lines = ["import sys, time", f"left = {size}"]
    lines += ["while left: left -= len(sys.stdin.buffer.raw.read(left))", "time.sleep(0.5)"]
    Path(battery).write_text("\n".join([f"#!{sys.executable}", *lines, 'print("= 1 Test | 0.5")', ""]))
    assert batteries.crush(battery, (), "one key", 0) == [("1 Test", 0.5)]


SLOW = """#!{python}
import sys
print("=", "3 Gap | 0.001" if "3" in sys.argv else "1 Collision | 0.5", flush=True)
while sys.stdin.buffer.read(1 << 16):
    pass
sys.exit(3)
"""


def test_what_has_not_ended_in_time_is_left_out(battery):
    Path(battery).write_text(SLOW.format(python=sys.executable))
    soon = time.monotonic() + 3
    assert batteries.crush(battery, ["crush"], "one key", 0, until=soon) == [("1 Collision", 0.5)]
    assert batteries.crush(battery, ["crush"], "one key", 0, ["3 Gap"], until=time.monotonic() + 3) == [
        ("3 Gap", 0.001)
    ]
    text = "\n".join(
        pages.crush_tables(
            {
                "results": [{"battery": "Crush", "stream": "one key", "test": "1 Collision", "p": 0.5}],
                "minutes": {"Crush, one key": 61.2},
                "environment": {"processor": "P", "python": "3"},
                "command": "c",
            }
        )
    )
    assert "Crush, one key: 1 of 96 tests ended, in 61 minutes" in text


NUMBERED = """#!{python}
import sys
for number in [each for each in sys.argv[1:] if each.isdigit()]:
    print("=", number, "Test |", "0.001" if number == "9" else "0.5")
"""


def test_a_run_goes_on_where_the_file_ended(tmp_path, battery):
    """The tests that have no row run, each by itself; the rows that are there stay, and their command."""
    Path(battery).write_text(NUMBERED.format(python=sys.executable))
    output = tmp_path / "crush.json"
    there = [
        {"battery": "SmallCrush", "stream": "one key", "test": f"{number} Test", "p": 0.25}
        for number in (1, 2, 3, 10)
    ]
    first = {
        "command": "c",
        "environment": {"processor": "P", "python": "3"},
        "minutes": {"SmallCrush, one key": 61.2},
    }
    output.write_text(json.dumps(first | {"results": there}))
    command = ["--tests", "--smallcrush", battery, "--only", "one key", "--output", str(output)]
    batteries.main([*command, "--go-on", "--jobs", "2"])
    record = json.loads(output.read_text())
    assert record["before"] == [first] and record["results"][:4] == there
    ended = [(row["battery"], row["test"]) for row in record["results"][4:]]
    assert ended == [
        *(("SmallCrush", f"{number} Test") for number in range(4, 10)),
        *(("SmallCrush, bits reversed", f"{number} Test") for number in range(1, 11)),
    ]
    assert record["results"][9]["fresh"] == dict.fromkeys(map(str, common.FRESH_SEEDS), 0.001)
    batteries.main([*command, "--go-on"])
    assert json.loads(output.read_text()) == record, "nothing was left to run"
    text = "\n".join(pages.crush_tables(record))
    assert "SmallCrush, one key: 10 of 96 tests ended, in 61 minutes" in text
    assert "P, Python 3; `c`." in text and record["command"] in text


@pytest.fixture
def samples():
    pytest.importorskip("scipy")
    import samples

    return samples


needs_a_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="there is no compiler"
)


@needs_a_compiler
def test_a_tiny_run_of_the_samples(tmp_path, samples):
    output = tmp_path / "samples.json"
    chosen = ["--dtypes", "float32", "float64", "float8_e5m2", "--step", "1000003"]
    samples.main(["--samples", "300000", "--jobs", "2", *chosen, "--output", str(output)])
    record = json.loads(output.read_text())
    assert [(row["kind"], row["dtype"]) for row in record["results"]] == [
        (kind, dtype) for kind in samples.KINDS for dtype in ("float32", "float64", "float8_e5m2")
    ]
    for row in record["results"]:
        assert all(1e-5 < p < 1 - 1e-5 for p in row["p"].values()), row
        assert ("Anderson-Darling" in row["p"]) == (row["dtype"] != "float8_e5m2")
        assert row.get("fresh", {}).keys() == {name for name, p in row["p"].items() if common.is_weak(p)}
    assert all(worst["largest_error"] < 2e-6 for name, worst in record["words"].items() if name != "step")
    assert all(abs(ratio - 1) < 0.02 for ratio in record["tails"].values())
    for cut, found in record["quantiles"].items():
        assert 0 < found["of the allowed"]["largest_error"] < 0.2, cut
        assert 0 < found["in sigmas"]["largest_error"] < 3e-6, cut
        assert found["in sigmas"]["not_finite"] == 0, cut
    text = "\n".join(pages.samples_tables(record))
    assert "| normal float64 | 6 | " in text and "| [3, inf) | " in text


# A coefficient, which of the ways to a quantile have it, and which of the normal's formulas.
CHANGED = {
    "the median": ("1.25331509f", "1.25333509f", {"[-2, 2]", "[-4, 1]"}, set()),
    "far out": ("(y + Real(1)) -", "(y + Real(2)) -", {"[10, inf)"}, set()),
    "a narrow interval": ("(alpha + beta) / 4", "(alpha + beta) / 2", {"[1, 1.01]"}, set()),
    "the sine": ("-0.64596349f", "-0.64606349f", set(), {"cos t", "sin t"}),
}


@needs_a_compiler
@pytest.mark.parametrize("change", CHANGED)
def test_a_wrong_coefficient_is_seen_where_it_counts(tmp_path, monkeypatch, samples, change):
    right, wrong, cuts, formulas = CHANGED[change]
    shutil.copytree(common.ROOT / "csrc" / "core", tmp_path / "csrc" / "core")
    changed = 0
    for header in (tmp_path / "csrc" / "core").iterdir():
        changed += header.read_text().count(right)
        header.write_text(header.read_text().replace(right, wrong))
    assert changed == 1
    monkeypatch.setattr(samples, "ROOT", tmp_path)
    found = samples.every_word(1000003)
    assert {c for c, q in found["quantiles"].items() if q["of the allowed"]["largest_error"] > 1} == cuts
    del found["words"]["step"]
    assert {f for f, worst in found["words"].items() if worst["largest_error"] > 2e-6} == formulas


def test_samples_go_on_beside_what_the_file_has(tmp_path, samples):
    output = tmp_path / "samples.json"
    few = ["--samples", "1000", "--step", "0", "--output", str(output)]
    samples.main([*few, "--kinds", "normal", "--dtypes", "float32", "float64"])
    record = json.loads(output.read_text())
    words = {"words": {"step": 7}, "tails": {"3": 1.0}, "quantiles": {}}
    output.write_text(json.dumps(record | words))
    samples.main(
        [*few, "--go-on", "--samples", "2000", "--kinds", "normal", "uniform", "--dtypes", "float32"]
    )
    again = json.loads(output.read_text())
    assert [(row["kind"], row["dtype"], row["samples"]) for row in again["results"]] == [
        ("uniform", "float32", 2000),
        ("normal", "float32", 2000),
        ("normal", "float64", 1000),
    ]
    assert again["results"][2] == record["results"][1] and {key: again[key] for key in words} == words
    assert again["before"] == [{key: record[key] for key in ("command", "environment")}]
    samples.main([*few, "--kinds", "uniform", "--dtypes", "float64"])
    alone = json.loads(output.read_text())
    assert len(alone["results"]) == 1 and "words" not in alone and "before" not in alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        (lambda x: x + 0.01, ("moment 1", "moment 3")),
        (lambda x: x * 1.01, ("moment 2", "moment 4")),
        (lambda x: torch.where((x > 0.3) & (x < 0.4), 0.4, x), ("chi-square",)),
    ],
    ids=["shifted", "wide", "gap"],
)
def test_wrong_samples_are_seen(samples, monkeypatch, wrong, seen, dtype):
    fill_ = samples.fill_

    def fill_wrongly_(tensor, *arguments):
        wide = torch.empty(len(tensor))
        fill_(wide, *arguments)
        tensor.copy_(wrong(wide))

    monkeypatch.setattr(samples, "fill_", fill_wrongly_)
    found = samples.Sample.drawn("normal", samples.DTYPES[dtype], 0, 300_000)
    p = samples.p_values(found, "normal", samples.DTYPES[dtype], 300_000)
    assert all(common.is_weak(p[name]) for name in seen), p


def test_the_p_values_of_anderson_and_darling(samples):
    """Its critical values, of many samples of a distribution that is known."""
    for statistic, p in ((1.9330, 0.1), (2.4924, 0.05), (3.0775, 0.025), (3.8781, 0.01)):
        assert samples.anderson_darling_p(statistic) == pytest.approx(p, rel=0.003)
    assert np.all(np.diff([samples.anderson_darling_p(z) for z in np.linspace(0.1, 8, 80)]) < 0)


@pytest.mark.parametrize("kind", pages.TABLES)
def test_the_tables_of_the_page_are_those_of_the_result_file(kind):
    record = json.loads(pages.FILES[kind].read_text())
    text = pages.PAGE.read_text()
    assert pages.with_tables(text, kind, record) == text
    script = r"(\w+=\S+ )*python (benchmarks/quality|tests/fuzz)/\w+[.]py "
    assert re.match(script, record["command"]) and record["results"]
