"""Patterns on names: globs as str, regular expressions as re.Pattern; as text in files and in commands."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import TypeAlias

from convinit_ext._engine import excerpt, reason

Pattern: TypeAlias = "str | re.Pattern[str]"

_REGEX = "re:"  # leads a regular expression where a pattern is text
_FLAGS = {re.ASCII: "a", re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}
_WILD = frozenset("*?[")


def matches(pattern: Pattern, name: str) -> bool:
    """Whether a pattern fits a name: a glob the whole of it (`*` crosses dots), a regular expression a part.

    >>> matches("layer?.*.weight", "layer1.0.conv1.weight"), matches(re.compile("conv[12]"), "0.conv1.weight")
    (True, True)
    """
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern)
    return pattern.search(name) is not None


def check(pattern: object, what: str) -> None:
    """Raise TypeError for what is no pattern, and ValueError for one that no name can fit."""
    if isinstance(pattern, re.Pattern):
        if not isinstance(pattern.pattern, str):
            shown = excerpt(pattern.pattern)
            raise TypeError(f"{what} must be a regular expression on str, not on bytes: {shown}")
        if not pattern.pattern:
            raise ValueError(f"{what} {pattern!r} is an empty pattern; '*' fits all")
        return
    if not isinstance(pattern, str):
        raise TypeError(f"{what} must be a str (a glob) or a re.Pattern, not {excerpt(pattern)}")
    if not pattern:
        raise ValueError(f"{what} is an empty pattern, which no name fits; '*' fits all")
    if pattern.startswith(_REGEX):
        raise ValueError(
            f"{what} {excerpt(pattern)} is a glob, and no name begins so; a regular expression is a "
            "re.Pattern, as re.compile makes it"
        )
    rest = re.sub(r"\[(!.|[^!])[^\]]*\]", "", pattern)  # a ] that comes first does not close it
    if "[" in rest:
        shown = excerpt(pattern)
        raise ValueError(f"{what} {shown}: its '[' is never closed; write [[] for the character itself")


def parse(text: str, what: str) -> Pattern:
    """Return the pattern of a text: a glob, or after "re:" a regular expression; ValueError if it is none.

    >>> parse("re:^blocks", "name"), parse("blocks.*", "name")
    (re.compile('^blocks'), 'blocks.*')
    """
    try:
        pattern = re.compile(text.removeprefix(_REGEX)) if text.startswith(_REGEX) else text
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{what} {excerpt(text)} is no regular expression: {reason(error)}") from error
    check(pattern, what)
    return pattern


def text_of(pattern: Pattern) -> str:
    """Return the text of a pattern, as parse() reads it; flags stand before it.

    >>> text_of(re.compile("^enc", re.IGNORECASE))
    're:(?i)^enc'
    """
    if isinstance(pattern, str):
        return pattern
    letters = "".join(letter for flag, letter in _FLAGS.items() if pattern.flags & flag)
    rest = re.sub(r"\A\(\?[aimsux]+\)", "", pattern.pattern)
    return _REGEX + (f"(?{letters}){rest}" if letters else pattern.pattern)


def is_exact(pattern: str) -> bool:
    """Whether a glob is a name without wildcards."""
    return _WILD.isdisjoint(pattern)


def compiled(glob: str) -> re.Pattern[str]:
    """Return the regular expression that a glob stands for."""
    return re.compile(translate(glob))
