"""How much memory the CPU has for new tensors, as Linux and its containers say; elsewhere nobody knows."""

from __future__ import annotations

from pathlib import Path

from convinit_ext.model._report import size_text

_MEMORY_FACTS = Path("/proc/meminfo")
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own
_FILE_CACHE = ("active_file", "inactive_file")  # of memory.stat: given up where memory runs short


def check_memory(num_bytes: int) -> None:
    """Raises MemoryError where the system says that the CPU's memory has less than this to give."""
    available = available_memory()
    if available is not None and num_bytes > available:
        raise MemoryError(
            f"the model needs {size_text(num_bytes)} of new memory, and {size_text(available)} are available"
        )


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, inside a container's limit; None where nobody says."""
    known = [number for number in (_system_memory(), _container_memory()) if number is not None]
    return min(known, default=None)


def _container_memory() -> int | None:
    """What control group version 2 leaves to this process's group. Its use counts the cache of files too."""
    try:
        limit, used, facts = (
            (_CONTROL_GROUP / name).read_text().strip()
            for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    if not (limit.isdigit() and used.isdigit()):
        return None
    entries = (line.split() for line in facts.splitlines())
    cached = sum(int(number) for name, number in entries if name in _FILE_CACHE)
    return max(0, int(limit) - int(used) + cached)


def _system_memory() -> int | None:
    try:
        facts = _MEMORY_FACTS.read_text()
    except OSError:
        return None
    for line in facts.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024  # the file counts in KiB
    return None
