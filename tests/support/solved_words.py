"""Words of Philox that are known: published answers, and the counters that give any four words."""

import random

import reference as ref

INVERSE_MULTIPLIERS = tuple(pow(int(each), -1, 2**32) for each in ref.PHILOX_MULTIPLIERS)
BEFORE = 32  # elements filled before the extreme ones, so that these lie in the vectorised part


def counter_of(words, key: int) -> tuple[int, int]:
    """(block, stream) that give these four words: the ten rounds backwards."""
    c0, c1, c2, c3 = words
    for step in reversed(range(ref.PHILOX_ROUNDS)):
        k0, k1 = (((key >> 32 * i) + step * ref.PHILOX_WEYL[i]) % 2**32 for i in (0, 1))
        old0, old2 = c3 * INVERSE_MULTIPLIERS[0] % 2**32, c1 * INVERSE_MULTIPLIERS[1] % 2**32
        c1, c3 = (
            (old2 * int(ref.PHILOX_MULTIPLIERS[1]) >> 32) ^ c0 ^ k0,
            (old0 * int(ref.PHILOX_MULTIPLIERS[0]) >> 32) ^ c2 ^ k1,
        )
        c0, c2 = old0, old2
    return c0 | c1 << 32, c2 | c3 << 32


def solve(words, seed: int = 0) -> tuple[int, int, int]:
    """(key, stream, block) that give these words, the block small enough for an index of 63 bits."""
    generator = random.Random(f"{seed} {words}")
    while True:
        key = generator.getrandbits(64)
        block, stream = counter_of(words, key)
        if BEFORE < block < 2**61 - BEFORE:
            return key, stream, block


PER_BLOCK = {"float32": 4, "float64": 2}

# Random123's known-answer file: counter, key -> words.
PHILOX_KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
