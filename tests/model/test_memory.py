"""Memory is asked for before anything is allocated, and a container's limit counts."""

import contextlib

import pytest
import torch
from torch import nn

from convinit_ext import init_model_
from convinit_ext.model import _run as memory


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(1000, 1000)


def test_too_little_memory_says_both_numbers_and_materialises_nothing(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    meta = on_meta()
    with pytest.raises(MemoryError, match=r"needs 4\.00 MB of new memory, and 1\.00 MB are available"):
        init_model_(meta)
    assert meta.weight.is_meta
    init_model_(nn.Linear(1000, 1000))  # in place: nothing new


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Files in place of the system's: there are none to begin with."""
    monkeypatch.setattr(memory, "_MEMORY_FACTS", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    return tmp_path


def write(folder, limit: str, used: int, facts: str) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(facts)


def test_memory_that_the_system_does_not_tell_is_not_checked(system):
    assert memory.available_memory() is None
    init_model_(on_meta())


def test_the_smaller_number_counts(system):
    (system / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    assert memory.available_memory() == 3000 * 1024
    write(system, "5000", 4000, "anon 4000\nfile 0\n")
    assert memory.available_memory() == 1000
    write(system, "max", 4000, "anon 4000\nfile 0\n")
    assert memory.available_memory() == 3000 * 1024


def test_the_cache_of_files_can_be_had_in_a_container(system):
    """As after a large file was read: the kernel gives it up where memory runs short."""
    write(
        system, "5000000", 4990000, "anon 90000\nfile 4900000\nactive_file 1900000\ninactive_file 3000000\n"
    )
    assert memory.available_memory() == 4910000
    init_model_(on_meta())
    write(system, "5000000", 4990000, "anon 4990000\nfile 0\nactive_file 0\ninactive_file 0\n")
    with pytest.raises(MemoryError, match=r"and 10\.00 kB are available"):
        init_model_(on_meta())


@pytest.mark.parametrize("fails", [False, True])
def test_new_memory_is_not_filled_with_nan_first(monkeypatch, fails):
    """Under use_deterministic_algorithms, whose setting comes back, after an error too."""
    seen = []

    def empty_strided(*args, made=torch.empty_strided, **kwargs):
        seen.append(torch.utils.deterministic.fill_uninitialized_memory)
        if fails:
            raise MemoryError
        return made(*args, **kwargs)

    model = on_meta()
    monkeypatch.setattr(torch, "empty_strided", empty_strided)
    with pytest.raises(MemoryError) if fails else contextlib.nullcontext():
        init_model_(model)
    assert seen and not any(seen)
    assert torch.utils.deterministic.fill_uninitialized_memory
