"""A report has a row for every parameter, fits the terminal that it is printed on, and is whole elsewhere."""

import copy
import io
import json
import math
import pickle
import re
import sys

import pytest
import torch
from torch import nn

from convinit_ext import Constant, TruncatedNormal, init_model_, verify
from convinit_ext.cli._unet import UNet
from convinit_ext.model import Report, fitted
from convinit_ext.model._report import std_of

HEADER = ["name", "shape", "dtype", "initialiser", "fan_in", "fan_out", "std", "bytes"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def deep() -> nn.Module:
    block = nn.Sequential(nn.ConvTranspose2d(640, 1280, 3), nn.GroupNorm(32, 1280))
    for name in ("first_feed_forward", "transformer_blocks", "upsampling_path"):
        block = nn.ModuleDict({name: block})
    return block


@pytest.fixture
def report() -> Report:
    with torch.device("meta"):
        return init_model_(deep(), dry_run=True)


def header_of(text: str) -> list[str]:
    return text.splitlines()[0].split()


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(report, width):
    text = report.text(width)
    assert max(map(len, text.splitlines())) <= width
    shown = header_of(text)
    assert shown == [each for each in HEADER if each in shown] and shown[0] == "name"
    left_out = re.search(r"left out to fit: (.+);", text.replace("\n  ", " "))
    assert (left_out[1].split(", ") if left_out else []) == [each for each in HEADER if each not in shown]


def test_names_lose_their_middles_and_keep_their_ends(report):
    first = report.text(80).splitlines()[2].split()[0]
    assert re.fullmatch(r"upsampling.*\.\..*\.0\.weight", first)
    assert len(first) >= 28


def test_a_wide_terminal_shows_it_whole(report):
    assert report.text(500) == str(report)
    assert header_of(str(report)) == HEADER and "left out" not in str(report)


def test_print_goes_by_the_terminal_and_writes_all_of_it_elsewhere(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    whole = str(report)  # pytest's own standard output is none
    assert max(map(len, whole.splitlines())) > 120
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert str(report) == report.text(80) != whole
    monkeypatch.setattr(sys, "stdout", None)
    assert str(report) == whole


def test_a_verification_fits_too():
    model = deep()
    init_model_(model, seed=1)
    found = verify(model, seed=2)
    assert not found
    for width in (80, 100):
        text = found.text(width)
        assert max(map(len, text.splitlines())) <= width
        assert "differ" in text and "left out to fit: " in text and "not equal: " in text
    assert "left out" not in str(found) and header_of(str(found))[:3] == HEADER[:3]


def test_columns_are_spared_before_texts_are_cut_below_what_they_keep():
    rows = [("a" * 30, "float32", "1")]
    header = ("name", "dtype", "std")
    assert fitted(header, rows, 2, 30, {0: 12}, [1])[1] == []
    lines, left_out = fitted(header, rows, 2, 20, {0: 12}, [1])
    assert left_out == ["dtype"] and lines[2] == "aaaaaa..aaaaaaa    1"
    assert fitted(header, rows, 2, None, {0: 12}, [1])[0][2] == f"{'a' * 30}  float32    1"


@pytest.mark.parametrize(
    "distribution",
    [
        TruncatedNormal(),
        TruncatedNormal(0.0, 0.02, -0.04, 0.04),
        TruncatedNormal(1.0, 1.0, 0.0, 3.0),
        TruncatedNormal(0.0, 1.0, -math.inf, 0.5),
    ],
    ids=str,
)
def test_std_of_a_truncated_normal_is_that_of_its_values(distribution):
    stats = pytest.importorskip("scipy.stats")
    a, b = ((bound - distribution.mean) / distribution.std for bound in (distribution.a, distribution.b))
    assert std_of(distribution) == pytest.approx(stats.truncnorm.std(a, b) * distribution.std, rel=1e-9)
    assert std_of(Constant(3.0)) == 0.0


def test_report_has_a_row_for_every_parameter_and_becomes_json():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    report = init_model_(model, seed=3, recipe="he", dtype=torch.bfloat16)
    row = report.rows[0]
    assert (row.name, row.shape, row.dtype, row.fan_in, row.fan_out) == (
        "0.weight",
        (8, 4, 3, 3),
        "bfloat16",
        36,
        72,
    )
    assert row.initialiser == "kaiming_normal_(mode='fan_out', nonlinearity='relu')"
    assert row.std == pytest.approx(math.sqrt(2 / 72))
    assert report.num_bytes == 2 * report.num_elements == 2 * sum(p.numel() for p in model.parameters())
    assert report.seconds > 0
    assert report.bytes_per_second == report.num_bytes / report.seconds
    read = json.loads(report.to_json())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert read["rows"][0]["shape"] == [8, 4, 3, 3]
    assert read["seed"] == 3


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda report: pickle.loads(pickle.dumps(report))]
)
def test_a_report_can_be_copied(copied):
    report = init_model_(nn.Linear(3, 2), seed=4)
    again = copied(report)
    assert again == report and str(again) == str(report) and again.to_dict() == report.to_dict()


def test_report_prints_aligned_and_stays_short_for_large_models():
    small = str(init_model_(nn.Sequential(nn.Linear(8, 4))))
    header, rule, weight, *_ = small.splitlines()
    assert header.split() == ["name", "shape", "dtype", "initialiser", "fan_in", "fan_out", "std", "bytes"]
    assert len(header) == len(rule) == len(weight)
    assert "2 tensors, 36 elements, 144 B in" in small
    large = str(init_model_(UNet(32)))
    assert len(large.splitlines()) < 50
    assert "(x2)" in large
    assert "more lines" in large
    assert max(map(len, large.splitlines())) < 200
