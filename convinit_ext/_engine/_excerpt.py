"""What an error shows of a text or value that may be very long: its beginning."""

from __future__ import annotations

_LONG = 200  # characters that are shown of a value
_LONG_ERROR = 500  # of another error, which may list what is accepted


def excerpt(value: object) -> str:
    """As repr() has it; of a long one the beginning.

    >>> excerpt("weight"), len(excerpt("w" * 1000))
    ("'weight'", 205)
    """
    return repr(_cut(value, _LONG)) if isinstance(value, str) else _cut(repr(value), _LONG)


def reason(error: Exception) -> str:
    """What another error says; of a long text the beginning."""
    return _cut(str(error), _LONG_ERROR)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
