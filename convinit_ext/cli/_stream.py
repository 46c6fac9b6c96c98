"""The command `stream`: Philox words to a pipe, for the test batteries of random number generators."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from convinit_ext.cli._arguments import of_arguments
from convinit_ext.keys import Key, of_names

MOST_STREAMS = 1 << 24
_LANES = 1 << 14  # blocks made at once: what they need stays in the processor's cache
_WIDTH = 250  # blocks of a row that each rank holds: a border every 1,000 elements
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10

_Words = np.ndarray[Any, np.dtype[np.uint64]]
_Output = np.ndarray[Any, np.dtype[np.uint32]]


def philox(block: _Words, key: _Words, stream: _Words) -> tuple[_Words, _Words, _Words, _Words]:
    """Return the four words of each block, in uint64; the arguments broadcast to one shape.

    Source: value contract, section 2 (Philox4x32-10). numpy's own Philox is another one, of 64-bit words.
    """
    c0, c1, c2, c3 = block & _LOW, block >> _SHIFT, stream & _LOW, stream >> _SHIFT
    k0, k1 = key & _LOW, key >> _SHIFT
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (second >> _SHIFT) ^ c1 ^ k0, second & _LOW
        c2, c3 = (first >> _SHIFT) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def interleaved(seed: int, name: str, by: str, num_streams: int) -> Iterator[_Output]:
    """Yield arrays of words without end: word 0 of every stream, then word 1 of every stream, and so on.

    By "element" the streams are the key's own words, in order; by "name" those of layers.0.NAME,
    layers.1.NAME and so on; by "seed" those of the seeds from `seed` on; by "shard" one key's, of a matrix
    that as many ranks hold by columns, 1,000 each, row after row.

    Raises:
        ValueError: streams that are not in [1, 2**24], or more than one by "element"; a seed out of range.
    """
    if not 1 <= num_streams <= (1 if by == "element" else MOST_STREAMS):
        accepted = "1" if by == "element" else f"1 to {MOST_STREAMS}"
        raise ValueError(f"by {by} there are {accepted} streams, not {num_streams}")
    if by == "name":
        words = of_names(seed, [f"layers.{i}.{name}" for i in range(num_streams)]).numpy()
    else:
        seeds = range(seed, seed + num_streams) if by == "seed" else [seed]
        words = np.array([Key(each, name).signed_words for each in seeds], dtype=np.int64)
    keys, streams = words.view(np.uint64).T
    ranks = np.arange(num_streams if by == "shard" else 1, dtype=np.uint64)
    return _arrays(keys, streams, ranks, num_streams)


def _arrays(keys: _Words, streams: _Words, ranks: _Words, num_streams: int) -> Iterator[_Output]:
    """Yield the interleaved words; keys, streams and ranks have one element a stream, or one for all."""
    num_rows, width = max(1, _LANES // num_streams), np.uint64(_WIDTH)
    for first in itertools.count(0, num_rows):
        local = np.arange(first, first + num_rows, dtype=np.uint64)[:, None]
        before = local // width * width * np.uint64(len(ranks)) + local % width
        output = np.empty((num_rows, 4, num_streams), dtype="<u4")
        for begin in range(0, num_streams, _LANES):
            part = slice(begin, begin + _LANES)
            key, stream, rank = (each if len(each) == 1 else each[part] for each in (keys, streams, ranks))
            for i, word in enumerate(philox(before + rank * width, key, stream)):
                output[:, i, part] = word
        yield output


def run_stream(options: argparse.Namespace) -> None:
    if sys.stdout.isatty():
        raise ValueError("words are binary, and this is a terminal; pipe them into a program or a file")
    left = options.count
    num_streams = options.streams or (1 if options.by == "element" else 1000)
    with of_arguments():
        arrays = interleaved(options.seed, options.parameter, options.by, num_streams)
    for output in arrays:
        words = output.reshape(-1)[:left]
        sys.stdout.buffer.write(words.data)
        left = None if left is None else left - len(words)
        if left == 0:
            break
    sys.stdout.buffer.flush()
