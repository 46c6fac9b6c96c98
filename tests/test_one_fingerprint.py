"""The table of one fingerprint: the small models again, by the quick ways, and what it says of others."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

import common
import one_fingerprint
import pages
import ways
from five_models import CASES, ORDERS
from ways import built

from convinit_ext import _C, plan_model
from convinit_ext._engine import digests, ops

RECORD = json.loads((common.RESULTS / "one_fingerprint.json").read_text())
PINNED = {name: pages.found_by(RECORD["results"], "small", name) for name in CASES}


def test_one_piece_by_every_instruction_set_in_every_order():
    before, isas = _C.isa(), _C.available_isas()
    chosen = {"models": list(CASES), "small": True, "orders": len(ORDERS), "ways": [*isas, *ways.WAYS]}
    try:
        rows = list(ways.in_one_piece(argparse.Namespace(**chosen)))
    finally:
        _C.force_isa(before)
    assert len(rows) == len(CASES) * len(isas) * len(ORDERS)
    for row in rows:
        assert [row["fingerprint"]] == PINNED[row["model"]], row


def test_two_processes():
    chosen = ["--models", "ConvNeXt V2", "Llama", "--ways", "FSDP2", "TP"]
    rows = list(one_fingerprint.ways(sys.executable, "--processes", 2, "--small", "--orders", 1, *chosen))
    assert {(row["model"], row["way"]) for row in rows} == {
        (name, way) for name in ("ConvNeXt V2", "Llama") for way in ("FSDP2", "TP")
    }
    for row in rows:
        assert [row["fingerprint"]] == PINNED[row["model"]], row


def test_orders_are_three():
    models = [built(CASES["Llama"], True, order) for order in ORDERS]
    names = [[name for name, _ in model.named_parameters()] for model in models]
    assert names[0] != names[1] != names[2] != names[0]
    assert sorted(names[0]) == sorted(names[1]) == sorted(names[2])


@pytest.mark.parametrize("name", ["ResNet-50", "Mixtral"])
def test_a_tensor_s_line_says_all_that_its_values_need(name):
    """What engine_rows.cpp is given is enough: the sums of fills by nothing else are those of the model."""
    plan = plan_model(built(CASES[name], True, ORDERS[0]), one_fingerprint.SEED, CASES[name].recipe)
    heads, lines = zip(*one_fingerprint.engine_lines(plan._plan), strict=True)
    total = digests.no_sums()
    for line in lines:
        kind, *params, dtype, count, key, stream, digest_key, digest_stream = line.split()
        memory = torch.empty(int(count), dtype=one_fingerprint.DTYPES[int(dtype)])
        words = [[int(each) for each in pair] for pair in ((key, stream), (digest_key, digest_stream))]
        keys = torch.tensor(words, dtype=torch.uint64).view(torch.int64)
        ops.fill_encoded_([memory], keys[:1].clone(), [int(kind)], list(map(float.fromhex, params)))
        total += ops.digest([memory], keys[1:].clone(), None).numpy().view(total.dtype)[0]
    assert [digests.of_all(heads, total)] == PINNED[name]


def test_another_fingerprint_and_what_was_not_run_are_said():
    table = one_fingerprint.Table()
    for found in ("a", "a", "b"):
        run = {"order": ORDERS[0], "model": "Llama", "fingerprint": found}
        table.add("small", "TP" if found == "a" else "HSDP", 2, run)
    table.leave_out("small", "NEON (qemu)", "there is no qemu-aarch64")
    assert table.fingerprints("small", "Llama") == {"a", "b"}
    record = RECORD | {"models": {"Llama": RECORD["models"]["Llama"]}, "results": table.rows}
    text = "\n".join(pages.one_fingerprint_tables(record))
    assert "`a` and `b` |" in text and "| **differs: `b`** |" in text
    assert "| NEON (qemu) | not run here | there is no qemu-aarch64 |" in text


def test_a_way_that_fails_is_said():
    with pytest.raises(RuntimeError, match=r"^ways\.py: error: argument --models: invalid choice: .*Nobody"):
        list(one_fingerprint.ways(sys.executable, "--processes", 0, "--models", "Nobody"))


@pytest.mark.parametrize("size", ["small", "real"])
def test_every_instruction_set_of_a_pc_has_a_row(size):
    """In which every model has the fingerprint that all have."""
    rows = {row["way"]: row for row in RECORD["results"] if row["size"] == size}
    for isa in ("portable", "sse2", "avx2", "avx512"):
        for name in CASES:
            assert list(rows[isa]["runs"][name]) == pages.found_by(RECORD["results"], size, name), (isa, name)


def test_more_adds_what_has_no_row_and_keeps_the_others(tmp_path):
    """The portable path is not in the file; rows that are there stay, those of another machine too."""
    output = tmp_path / "table.json"
    others = [
        row
        for row in RECORD["results"]
        if row["size"] == "small" and row["way"] not in ("portable", *ways.WAYS)
    ]
    output.write_text(json.dumps(RECORD | {"results": others, "before": []}))
    chosen = ["--more", "--processes", "--sizes", "small", "--models", "Llama", "--output", str(output)]
    assert one_fingerprint.main(chosen) == 0
    record = json.loads(output.read_text())
    first, *rest = record["results"]
    assert first["way"] == "portable" and first["runs"] == {"Llama": {PINNED["Llama"][0]: len(ORDERS)}}
    assert [row for row in rest if row in others] == others
    assert record["before"] == [{key: RECORD[key] for key in ("command", "environment")}]
