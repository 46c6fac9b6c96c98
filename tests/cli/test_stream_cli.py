"""The command `stream`: the contract's words, whichever streams are interleaved, and how it ends."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import reference as ref

from convinit_ext import _C
from convinit_ext.__main__ import main
from convinit_ext.cli import _stream

BLOCKS = np.array([0, 1, 7, 2**32 - 1, 2**32, 2**61 + 3, 2**64 - 1], np.uint64)


def expected(seed: int, name: str, first: int, count: int) -> np.ndarray:
    index = np.arange(first, first + count, dtype=np.uint64)
    return ref.element_words_32(index, *ref.layer_key(seed, name)).astype(np.uint32)


def streamed(capfdbinary, *arguments: object) -> np.ndarray:
    assert main(["stream", *map(str, arguments)]) == 0
    out, err = capfdbinary.readouterr()
    assert err == b""
    return np.frombuffer(out, "<u4")


def test_words_equal_the_reference_and_the_compiled_ones():
    key, stream = ref.layer_key(-3, "head.weight")
    ours = _stream.philox(BLOCKS, *(np.array([each], np.uint64) for each in (key, stream)))
    assert np.array_equal(np.stack(ours, -1), ref.words(BLOCKS, key, stream))
    for row, block in zip(np.stack(ours, -1).tolist(), BLOCKS.tolist(), strict=True):
        counter = block % 2**32, block >> 32, stream % 2**32, stream >> 32
        assert row == _C.philox(counter, (key % 2**32, key >> 32))


def test_the_words_of_a_parameter_in_order(capfdbinary):
    count = 4 * 2**13 + 4 * 5 + 3  # more than is made at once, and no whole block
    found = streamed(capfdbinary, "--seed", -3, "--name", "head.weight", "--count", count)
    assert np.array_equal(found, expected(-3, "head.weight", 0, count))


@pytest.mark.parametrize("num_streams", [3, 1000, 2**13 + 1])
def test_names_take_turns(capfdbinary, num_streams):
    rows = 9
    found = streamed(capfdbinary, "--by", "name", "--streams", num_streams, "--count", rows * num_streams)
    for i in {0, 1, num_streams - 2, num_streams - 1}:  # the last two of 2**13 + 1 are made apart
        assert np.array_equal(found[i::num_streams], expected(0, f"layers.{i}.weight", 0, rows))


def test_seeds_take_turns(capfdbinary):
    found = streamed(capfdbinary, "--by", "seed", "--seed", 2**32 - 2, "--streams", 5, "--count", 5 * 7)
    for i in range(5):
        assert np.array_equal(found[i::5], expected(2**32 - 2 + i, "weight", 0, 7))


def test_shards_take_turns_and_go_on_in_their_next_row(capfdbinary):
    found = streamed(capfdbinary, "--by", "shard", "--streams", 3, "--count", 3 * 2003)
    for rank in range(3):
        rows = [expected(0, "weight", start + 1000 * rank, 1000) for start in (0, 3000, 6000)]
        assert np.array_equal(found[rank::3], np.concatenate(rows)[:2003])


def test_a_thousand_streams_are_taken_unless_another_number_is_said(capfdbinary):
    found = streamed(capfdbinary, "--by", "name", "--count", 1001)
    assert np.array_equal(found[::1000], expected(0, "layers.0.weight", 0, 2))


def test_a_reader_that_has_enough_ends_it_quietly():
    with subprocess.Popen(
        [sys.executable, "-m", "convinit_ext", "stream"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.read(8) == expected(0, "weight", 0, 2).tobytes()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--streams", "2"], "by element there are 1 streams, not 2"),
        (["--by", "name", "--streams", str(2**24 + 1)], "there are 1 to 16777216 streams"),
        (["--by", "seed", "--seed", str(2**64 - 1)], "seed must be in"),
    ],
    ids=["element", "too many", "seed"],
)
def test_what_cannot_be_streamed_is_named_before_a_word(capfdbinary, arguments, said):
    assert main(["stream", *arguments]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b"" and said in err.decode()


def test_a_terminal_gets_no_words(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["stream"]) == 1
    assert "this is a terminal" in capsys.readouterr().err


def test_the_words_never_end():
    arrays = _stream.interleaved(0, "weight", "element", 1)
    assert sum(len(each) for each in itertools.islice(arrays, 3)) == 3 * 2**14
