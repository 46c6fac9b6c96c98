"""What of the benchmarks runs without a GPU and in no time: models, verdicts, tables of made-up records."""

import contextlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import bench_intercept
import bench_peers
import gpu_against_torch as gpu
import measure
import models
import table

from convinit_ext import init_model_, intercept

VARIABLE = re.compile(r"[A-Z_]+=")


@pytest.mark.parametrize(
    ("build", "tensors", "elements"),
    [
        (models.sdxl_layers, 1680, 2_567_463_684),
        (models.resnet50_layers, 161, 25_557_032),
        (models.llama_7b_layers, 291, 6_738_415_616),
    ],
)
def test_layers_are_those_of_the_network(build, tensors, elements):
    """The numbers that diffusers, torchvision and transformers give for them."""
    with torch.device("meta"):
        parameters = list(build().parameters())
    assert len(parameters) == tensors
    assert sum(parameter.numel() for parameter in parameters) == elements


def test_the_engine_call_is_what_init_model_does():
    with torch.device("cpu"):
        ours, engines = (
            torch.nn.Sequential(torch.nn.Embedding(9, 4, padding_idx=2), torch.nn.Linear(4, 3)) for _ in "12"
        )
    init_model_(ours, seed=0)
    gpu.engine_call(engines)()
    for ours_parameter, engines_parameter in zip(ours.parameters(), engines.parameters(), strict=True):
        assert torch.equal(ours_parameter, engines_parameter)


def record(seconds: float) -> dict:
    taken = {"torch": 4.0, "convinit": seconds, "fill": 1.0, "triton": 2.0}
    digested, compared = {"sum": 0.3, "digest": 0.4}, {"convinit": 0.3, "compare": 0.4}
    rows = [
        gpu.row_of("uniform float32", 2**28, torch.float32, taken),
        gpu.row_of("uniform bfloat16", 2**20, torch.bfloat16, taken),
        gpu.row_of("uniform float8_e5m2", 2**20, torch.float8_e5m2, taken | {"torch": None}),
        gpu.reading_row("digest", "sum", "digest bfloat16", torch.bfloat16, digested),
        gpu.reading_row("compare", "convinit", "compare normal float32", torch.float32, compared),
    ]
    model = {"case": "SDXL UNet bfloat16", "tensors": 1680, "elements": 5, "ratio": 12.5, "launches": 1}
    model |= {"torch_kernels": 1680, "torch_seconds": 0.5, "convinit_seconds": 0.04}
    model |= {"plan_seconds": 0.05, "plan_ratio": 9.9}
    rows.append(model | {"convinit_host_seconds": 0.03, "replay_seconds": 0.002})
    environment = dict.fromkeys(("gpu", "driver", "processor", "torch", "python", "convinit_cuda"), "made up")
    return {"command": "python x", "environment": environment, "results": rows, "bars": gpu.judged(rows)}


@pytest.mark.parametrize(("seconds", "met"), [(1.04, True), (1.06, False)])
def test_bars_are_judged(seconds, met):
    rows = [{"case": "a", "more_microseconds": seconds * 14.4}, {"case": "b", "fill_ratio": 5.25 / seconds}]
    assert [each["met"] for each in bench_intercept.judged(rows)] == [met, met]
    verdicts = {(each["case"], each["measure"]): each["met"] for each in record(seconds)["bars"]}
    assert verdicts["uniform float32", "of_fill_bandwidth"] is met
    assert verdicts["uniform bfloat16", "ratio"] is None  # measured, but not at the size that counts
    assert verdicts["digest bfloat16", "of_sum_speed"] is True
    assert verdicts["compare normal float32", "of_convinit_speed"] is False
    assert verdicts["compare normal bfloat16", "of_convinit_speed"] is None
    assert verdicts["SDXL UNet bfloat16", "ratio"] is True
    assert verdicts["SDXL UNet bfloat16", "plan_ratio"] is False
    assert verdicts["SDXL UNet bfloat16", "launches"] is True


def test_a_record_of_a_gpu_becomes_its_own_table():
    both = "\n".join(["before", *table.MARKERS["cpu"], "between", *table.MARKERS["gpu"], "after"])
    text = table.with_table(both, record(1.06))
    assert "| uniform float32 | 2^28 | 4 s | 1.06 s | **3.8x** | 1 | 0.94 | - | 2 s |" in text
    assert "| uniform float8_e5m2 | 2^20 | - | 1.06 s | - | 0 | 0.94 | - | 2 s |" in text
    assert "- digest bfloat16, 2^28 elements: 1 GB/s, 0.75 of the speed of `sum`" in text
    assert "- compare normal float32, 2^28 elements: 3 GB/s, 0.75 of the speed of the fill" in text
    model = "| SDXL UNet bfloat16 | 1680 | 500 ms | 40 ms | **12.5x** | 30 ms | 50 ms | 2 ms | 1 for 1680 |"
    assert model in text
    missed = (
        "uniform float32: of_fill_bandwidth 0.943, not 0.95; compare normal float32: of_convinit_speed 0.75"
    )
    assert f"\nGoals missed: {missed}, not 0.8; SDXL UNet bfloat16: plan_ratio 9.9, not 10.0.\n" in text
    assert text.index("between") < text.index("uniform float32") < text.index("after")
    assert table.with_table(text, record(1.06)) == text


@pytest.mark.parametrize(
    ("page", "chosen"),
    [(table.PERFORMANCE, None), (table.README, table.CHOSEN)],
    ids=["performance", "README"],
)
def test_the_tables_of_the_pages_are_those_of_the_result_file(page, chosen):
    record = json.loads((table.ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    text = page.read_text()
    assert table.with_table(text, record, chosen) == text
    assert all(f"\n| {row['case']} |" in text for row in record["results"] if row["case"] in table.CHOSEN)
    assert {row["case"] for row in record["results"]} >= set(table.CHOSEN)


@pytest.mark.parametrize("page", [table.PERFORMANCE, table.README], ids=lambda page: page.name)
def test_the_pages_say_how_large_the_tensors_are(page):
    rows = json.loads((table.ROOT / "benchmarks" / "results" / "cpu.json").read_text())["results"]
    rows = [row for row in rows if "torch_seconds" in row and not re.search(r"\dx\d|cold|warm", row["case"])]
    (size,) = {f"{row['elements_per_second'] * row['convinit_seconds'] / 1e6:.1f}" for row in rows}
    assert f"{size} million elements where no shape is said" in " ".join(page.read_text().split())


@pytest.mark.parametrize("path", sorted(table.ROOT.glob("*/results/*.json")), ids=lambda path: path.name)
def test_a_result_file_says_its_command_and_its_versions(path):
    record = json.loads(path.read_text())
    for command in record["commands"] if "commands" in record else [record["command"]]:
        program, script, *_ = (word for word in shlex.split(command) if not VARIABLE.match(word))
        assert program in ("nvcc", "cuobjdump", "nvdisasm") or (table.ROOT / script).is_file(), command
    where = record.get("environment", record)
    assert "nvcc" in where or (where["python"] and where["torch"])


@pytest.mark.parametrize("path", sorted(table.ROOT.glob("*/results/*.json")), ids=lambda path: path.name)
def test_a_command_with_an_output_names_the_result_file(path):
    words = shlex.split(json.loads(path.read_text()).get("command", ""))
    named = [value for option, value in itertools.pairwise(words) if option == "--output"]
    assert set(named) <= {str(path.relative_to(table.ROOT))}


def test_a_command_says_the_variables_that_choose_an_instruction_set(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--output", "a file"])
    for name in ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONVINIT_ISA", "avx2")
    assert measure.command() == "CONVINIT_ISA=avx2 python benchmarks/x.py --output 'a file'"


def test_the_table_of_peers_is_that_of_the_result_file():
    text = bench_peers.PERFORMANCE.read_text()
    record = json.loads(bench_peers.RESULTS.read_text())
    assert bench_peers.with_table(text, record) == text
    assert len(record["results"]) >= 8


def test_peers_are_timed_in_turns(capsys):
    found = bench_peers.rows(repeats=1, sizes=[64])
    assert {(row["case"], row["threads"]) for row in found} >= {("normal float64", 1), ("uniform float32", 1)}
    assert all(
        {"convinit_ext", "PyTorch", "NumPy SFC64", "fill_", "memset"} <= row["seconds"].keys()
        for row in found
    )
    assert capsys.readouterr().out.count("|") == 8 * len(found)


def test_the_clock_of_fills_changes_none():
    layers = [torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 4)) for _ in "1234"]
    for layer, is_intercepted in zip(layers, (True, True, False, False), strict=True):
        torch.manual_seed(0)
        block = intercept(layer, seed=0) if is_intercepted else contextlib.nullcontext()
        clock = bench_intercept.FillClock() if layer in layers[::2] else contextlib.nullcontext()
        with block, clock:
            models.run_init_code(layer)
            layer[0].bias.data.normal_()
        assert getattr(clock, "seconds", 1.0) > 0
    for timed, plain in (layers[:2], layers[2:]):
        for one, other in zip(timed.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one, other)


def test_the_gpu_check_tells_how_many_bars_are_missed(tmp_path):
    """A script stands in for Python: it has a GPU, and figures that miss one of two bars."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*get_device_capability*) echo 9.0 ;;\n"
        """*gpu_against_torch*) printf '"met": true\\n"met": false\\n' >"$OUT/gpu.json" ;;\n"""
        "esac\n"
    )
    python.chmod(0o755)
    script = Path(__file__).parent.parent / "scripts" / "gpu_check.sh"
    told = subprocess.run(
        ["bash", str(script)],
        env=os.environ | {"PYTHON": str(python), "OUT": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "every step passed; bars missed: 1;" in told.stdout


def figures(name: str, key: str, **where: int) -> dict[str, str]:
    """Of a result file: one figure of each case, as a page writes it."""
    rows = json.loads((table.ROOT / "benchmarks" / "results" / name).read_text())["results"]
    rows = [row for row in rows if row.items() >= where.items() and key in row]
    return {row["case"]: f"{row[key]:.2f}" for row in rows}


def test_the_table_beside_the_fill_is_that_of_the_result_files():
    one, two = (figures("fingerprint.json", "of_sum", threads=threads) for threads in (1, 2))
    of_fill, of_model = (figures("verify.json", key) for key in ("of_fill", "of_init_model"))
    saving = json.loads((table.ROOT / "benchmarks" / "results" / "saving.json").read_text())
    plain, last = (
        ("float32", "bfloat16", "float64"),
        ("float32 8x8 channels_last", "float32 3x3 channels_last"),
    )
    normal = (f"Normal {dtype}" for dtype in (*plain, "float8_e4m3fn"))
    expected = [
        *([each[case] for case in cases] for cases in (plain, last) for each in (two, one)),
        [two["float32 transposed"], one["float32 transposed"]],
        [two["ResNet-50's layers"]],
        [of_fill[case] for case in normal],
        [of_fill["Uniform float32"], of_fill["Uniform bfloat16"]],
        *(
            [each[case] for each in (of_fill, of_model)]
            for case in ("bundled U-Net of width 192", "ResNet-50's layers")
        ),
        [f"{saving['saving_to_the_slower_of_dd_and_fill']:.2f}"],
    ]
    page = table.PERFORMANCE.read_text().partition("## Beside the fill")[2]
    rows = [line.split("|")[2] for line in page.partition("\n\nSaving ")[0].splitlines() if "|" in line][2:]
    assert [re.findall(r"\d\.\d\d", row) for row in rows[:-1]] == expected  # intercept's spans many models
    for size in ("llama_4b", "llama_70b_not_written"):
        assert f"{saving[size]['peak_bytes'] / 1e6:.0f} MB" in page
