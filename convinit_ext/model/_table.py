"""Tables as text, as wide as they are or as a terminal is: columns go, and texts lose their middles."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

_LEAST = 8  # characters of a text that is cut


def table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """Lines of equal columns: the first `num_left` aligned to the left, the others to the right.

    >>> table(("name", "std"), [("fc.weight", "0.5"), ("fc.bias", "0")], num_left=1)
    ['name       std', '---------  ---', 'fc.weight  0.5', 'fc.bias      0']
    """
    widths = _widths(header, rows)
    lines = [header, ["-" * width for width in widths], *rows]
    return ["  ".join(_aligned(line, widths, num_left)).rstrip() for line in lines]


def fitted(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    num_left: int,
    width: int | None,
    cut: Mapping[int, int],
    spare: Sequence[int],
) -> tuple[list[str], list[str]]:
    """Return a table's lines, of at most `width` characters as far as that goes, and the columns left out.

    Args:
        cut: columns whose texts may lose their middles, in this order, and how many characters each keeps
            as long as there are columns to spare.
        spare: columns that are left out, in this order, where that is not enough.

    >>> fitted(("name", "std", "bytes"), [("encoder.weight", "0.5", "16")], 1, 16, {0: 8}, [2])
    (['name         std', '-----------  ---', 'enco..eight  0.5'], ['bytes'])
    """
    if width is None:
        return table(header, rows, num_left), []
    widths, kept, left_out = _widths(header, rows), list(range(len(header))), []
    for column in spare:
        if _total([min(widths[each], cut.get(each, widths[each])) for each in kept]) > width:
            kept.remove(column)
            left_out.append(column)
    for column, least in (*cut.items(), *dict.fromkeys(cut, _LEAST).items()):  # less still, where it must be
        excess = _total([widths[each] for each in kept]) - width
        if column in kept and excess > 0:
            least = max(least, len(header[column]))
            widths[column] = max(min(least, widths[column]), widths[column] - excess)
    shown = [[shortened_text(row[each], widths[each]) for each in kept] for row in (header, *rows)]
    lines = table(shown[0], shown[1:], sum(each < num_left for each in kept))
    return lines, [header[each] for each in sorted(left_out)]


def shortened_text(text: str, size: int) -> str:
    """The text without its middle, where it is longer than `size` characters.

    >>> shortened_text("encoder.weight", 8)
    'enc..ght'
    """
    return text if len(text) <= size else f"{text[: size // 2 - 1]}..{text[len(text) - (size - 1) // 2 :]}"


def terminal_width() -> int | None:
    """The columns of the terminal that the standard output is; None where it is none."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def wrapped(text: str, width: int | None) -> str:
    """A sentence in lines of at most `width` characters; None leaves it as it is."""
    if width is None:
        return text
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _aligned(cells: Sequence[str], widths: Sequence[int], num_left: int) -> list[str]:
    return [
        cell.ljust(width) if column < num_left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
