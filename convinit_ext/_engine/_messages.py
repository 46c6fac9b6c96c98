"""What a user reads: what is neither yes nor no, the first of many names, a bar that moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

_LONG = 200  # characters that are shown of a value
_LONG_ERROR = 500  # of another error, which may list what is accepted
_MANY = 20  # names that are listed


def check_flags(**flags: bool) -> None:
    """Raise TypeError for what is neither True nor False: the text "no", as of settings, would mean yes.

    >>> check_flags(overwrite=True, dry_run=False)
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {excerpt(flag)}")


def excerpt(value: object) -> str:
    """Return repr() of a value; of a long one the beginning.

    >>> excerpt("weight"), len(excerpt("w" * 1000))
    ("'weight'", 205)
    """
    return repr(_cut(value, _LONG)) if isinstance(value, str) else _cut(repr(value), _LONG)


def reason(error: Exception) -> str:
    """Return what another error says; of a long text the beginning."""
    return _cut(str(error), _LONG_ERROR)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def listed(names: Iterable[object]) -> str:
    """Return names with commas between them; of many the first twenty.

    >>> listed(["a", "b"]), listed(range(22))[-17:]
    ('a, b', '18, 19 and 2 more')
    """
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _MANY} more" if len(texts) > _MANY else ""
    return ", ".join(texts[:_MANY]) + more


def lines(texts: Sequence[str]) -> str:
    r"""Return texts on indented lines of their own, after a line break; of many the first twenty.

    >>> lines(["a", "b"]), lines(["c"] * 22)[-13:]
    ('\n  a\n  b', '\n  and 2 more')
    """
    more = [f"and {len(texts) - _MANY} more"] if len(texts) > _MANY else []
    return "".join(f"\n  {text}" for text in [*texts[:_MANY], *more])


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put what an error inside the block is about before its text.

    >>> with naming("parameter 'w'"):
    ...     raise ValueError("it is empty")
    Traceback (most recent call last):
    ValueError: parameter 'w': it is empty
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:  # UnsupportedTensorError is two of them
        raise type(error)(f"{what}: {error}") from error


@contextmanager
def progress_bar(total: int | None, description: str) -> Iterator[Callable[[int], object]]:
    """Show a tqdm bar that counts bytes, none for a total of None, and yield the function that moves it.

    >>> with progress_bar(None, "fill") as advance:
    ...     advance(4)
    """
    if total is None:
        yield lambda num_bytes: None
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it has no types

    with tqdm(total=total, unit="B", unit_scale=True, desc=description) as bar:
        yield bar.update
