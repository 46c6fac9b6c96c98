"""docs/fingerprint.md in plain numpy: what digests and fingerprints are tested against."""

import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import reference
import torch
from torch import Tensor

CHUNK = 1024
SHIFT = 16
NUM_SUMS = 4
MASK = 2**64 - 1


def blake(person: bytes, message: bytes, size: int = 16) -> bytes:
    return hashlib.blake2b(message, digest_size=size, person=person).digest()


def u64le(number: int) -> bytes:
    return number.to_bytes(8, "little")


def words_of(person: bytes, message: bytes, first_block: int, num_blocks: int) -> list[int]:
    """Words of Philox by the key and the stream that a hash makes."""
    digest = blake(person, message)
    key, stream = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    blocks = np.arange(first_block, first_block + num_blocks, dtype=np.uint64)
    return [int(word) for word in reference.words(blocks, key, stream).ravel()]


def header(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    texts = [u64le(len(text.encode())) + text.encode() for text in (name, dtype)]
    return b"".join([*texts, u64le(len(shape)), *map(u64le, shape)])


def header_of(name: str, tensor: Tensor) -> bytes:
    return header(name, str(tensor.dtype).removeprefix("torch."), tensor.shape)


def words(tensor: Tensor) -> np.ndarray:
    flat = tensor.detach().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return np.frombuffer(data + bytes(-len(data) % 4), dtype="<u4")


@functools.cache
def table() -> np.ndarray:
    size = CHUNK + SHIFT * (NUM_SUMS - 1)
    return np.array(words_of(b"convinit-fp1-tab", b"", 0, size // 4), dtype=np.uint64)


def sums(head: bytes, data: np.ndarray) -> list[int]:
    weights, found = table(), [0] * NUM_SUMS
    for chunk in range(-(-len(data) // CHUNK)):
        part = data[chunk * CHUNK : (chunk + 1) * CHUNK].astype(np.uint64)
        x = words_of(b"convinit-fp1-key", head, 2 * chunk, 2)
        for a in range(NUM_SUMS):
            factor = (x[2 * a] + (x[2 * a + 1] << 32)) | 1
            inner = int(np.sum(weights[SHIFT * a : SHIFT * a + len(part)] * part, dtype=np.uint64))
            found[a] = (found[a] + factor * inner) & MASK
    return found


def of_tensor(tensor: Tensor, name: str = "") -> str:
    head = header_of(name, tensor)
    message = head + b"".join(map(u64le, sums(head, words(tensor))))
    return blake(b"convinit-fp1-one", message).hex()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    heads = {name: header_of(name, tensor) for name, tensor in tensors.items()}
    totals = [0] * NUM_SUMS
    for name, tensor in tensors.items():
        for a, each in enumerate(sums(heads[name], words(tensor))):
            totals[a] = (totals[a] + each) & MASK
    all_heads = blake(b"convinit-fp1-hdr", b"".join(sorted(heads.values())), 32)
    message = u64le(len(tensors)) + b"".join(map(u64le, totals)) + all_heads
    return blake(b"convinit-fp1-all", message).hex()
