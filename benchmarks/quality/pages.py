"""Writes the tables of the result files of quality, one fingerprint and fuzzing into docs/quality.md.

python benchmarks/quality/pages.py    # each stands between two markers
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from common import RESULTS, ROOT, is_weak

PAGE = ROOT / "docs" / "quality.md"
KINDS = ("stream", "crush", "dieharder", "finished", "samples", "truncated", "one_fingerprint", "fuzz")
FILES = {
    kind: RESULTS / f"{kind if kind in ('one_fingerprint', 'fuzz') else f'quality_{kind}'}.json"
    for kind in KINDS
}
MARKERS = {
    kind: (f"<!-- {kind}: begin (made by benchmarks/quality/pages.py) -->", f"<!-- {kind}: end -->")
    for kind in KINDS
}
Record = dict[str, Any]


def p_text(p: float | None) -> str:
    """Return three digits, of the distance to 1 too where that is small."""
    if p is None:
        return "-"
    if p < 0.0005:
        return f"{p:.0e}"
    return f"1 - {1 - p:.0e}" if p > 0.9995 else f"{p:.3f}"


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def header(*cells: str) -> list[str]:
    return [line(*cells), "|" + "---|" * len(cells)]


def machine(record: Record, *tools: str) -> str:
    where = record["environment"]
    versions = [f"{tool} {where[tool]}" for tool in tools if tool in where]
    return (
        f"{', '.join([where['processor'], 'Python ' + where['python'], *versions])}; `{record['command']}`."
    )


def machines(record: Record, *tools: str) -> list[str]:
    """Return a paragraph for each run that made a record: a later one may have added rows."""
    said = [machine(run, *tools) for run in (*record.get("before", ()), record)]
    return ["", "\n\n".join(dict.fromkeys(said))]


def weak_lines(named: list[tuple[str, float, dict[str, float]]]) -> list[str]:
    """Return the weak p-values, each with those of the fresh seeds."""
    lines = [
        f"- {name}: {p_text(p)}; on fresh seeds {', '.join(map(p_text, fresh.values()))}"
        for name, p, fresh in named
    ]
    return ["", "Weak, and looked at again:", "", *lines] if lines else ["", "None is weak."]


def stream_tables(record: Record) -> Iterator[str]:
    """Yield the lines of the batteries: a row for each stream, how many p-values and how many weak."""
    rows = record["results"]
    streams = list(dict.fromkeys(row["stream"] for row in rows))
    batteries = dict.fromkeys(row["battery"] for row in rows)
    yield from header("stream", "p-values", "least", "greatest", "weak")
    for stream in streams:
        p = [row["p"] for row in rows if row["stream"] == stream]
        yield line(stream, len(p), p_text(min(p)), p_text(max(p)), sum(map(is_weak, p)))
    everything = [row["p"] for row in rows]
    beyond = sum(map(is_weak, everything))
    yield from ("", f"{beyond} of {len(everything)} p-values are weak; by chance one in 100 would be.")
    found = [
        (f"{row['battery']}, {row['test']}, {row['stream']}", row["p"], row["fresh"])
        for row in rows
        if "fresh" in row
    ]
    yield from weak_lines(found)
    yield from ("", f"Run: {'; '.join(batteries)}.", *machines(record, "dieharder", "TestU01"))


def samples_tables(record: Record) -> Iterator[str]:
    """Yield the lines of the samples: a row for each dtype and kind, tails, and float32 at every word."""
    rows = record["results"]
    tests = ("chi-square", "Kolmogorov-Smirnov", "Anderson-Darling", *(f"moment {k}" for k in (1, 2, 3, 4)))
    yield from header("samples", "number", *tests)
    for row in rows:
        p = (p_text(row["p"].get(test)) for test in tests)
        yield line(f"{row['kind']} {row['dtype']}", f"{row['samples']:.0e}", *p)
    found = [
        (f"{test}, {row['kind']} {row['dtype']}", row["p"][test], fresh)
        for row in rows
        for test, fresh in row.get("fresh", {}).items()
    ]
    yield from weak_lines(found)
    if "words" in record:
        yield from exact_tables(record)
    yield from machines(record, "scipy")


def exact_tables(record: Record) -> Iterator[str]:
    """Yield the lines of normals' tails and zeros, and of float32's formulas and quantiles at every word."""
    rows = record["results"]
    yield ""
    yield from header("beyond, both sides", "sigma", "found", "expected", "of all words, to the exact")
    for row in rows:
        for tail in row.get("tails", ()):
            sigma, expected = f"{tail['sigma']:g}", f"{tail['expected']:.1f}"
            ratio = f"{record['tails'][sigma]:.5f}" if row["dtype"] == "float32" else "-"
            yield line(f"normal {row['dtype']}", sigma, tail["found"], expected, ratio)
    for row in rows:
        if row["dtype"] == "float32" and "zeros" in row:
            zeros = row["zeros"]
            yield from ("", f"Zeros of float32: {zeros['found']}; expected {zeros['expected']:.1f}.")
    yield ""
    words = dict(record["words"])
    yield from header(
        f"float32 at every {ordinal(words.pop('step'))}word", "largest error", "at word", "NaN or infinite"
    )
    for name, worst in words.items():
        yield line(name, f"{worst['largest_error']:.2e}", worst["word"], worst["not_finite"])
    yield ""
    errors = "largest error", "at word", "of the allowed", "at word", "NaN or infinite"
    yield from header("standard normal cut to", *errors, "falls", "the largest")
    for name, found in record["quantiles"].items():
        sigmas, share = found["in sigmas"], found["of the allowed"]
        yield line(
            name,
            *(f"{sigmas['largest_error']:.2e}", sigmas["word"]),
            *(f"{share['largest_error']:.3f}", share["word"]),
            *(sigmas["not_finite"], found["falls"], f"{found['largest_fall']:.3g}"),
        )


def ordinal(step: int) -> str:
    return "" if step == 1 else f"{step}th "


def crush_tables(record: Record) -> Iterator[str]:
    """Yield the lines of Crush: how many of its 96 tests ended, in how much time, and what they said."""
    ended: dict[str, set[str]] = {}
    for row in record["results"]:
        ended.setdefault(f"{row['battery']}, {row['stream']}", set()).add(row["test"].split()[0])
    for name, tests in ended.items():
        minutes = sum(run["minutes"].get(name, 0) for run in (*record.get("before", ()), record))
        yield f"- {name}: {len(tests)} of 96 tests ended, in {minutes:.0f} minutes beside other work."
    yield ""
    yield from stream_tables(record)


def one_fingerprint_tables(record: Record) -> Iterator[str]:
    """Yield the lines of the models, and of the ways by which each was initialised."""
    names, rows = list(record["models"]), record["results"]
    yield from header("model", "what", "parameters", "dtype", "fingerprint", "small")
    for name, model in record["models"].items():
        said = [found_by(rows, size, name) for size in ("real", "small")]
        yield line(
            name, model["what"], f"{model['parameters']:,}", model["dtype"], *map(fingerprints_text, said)
        )
    for size, what in (("real", "At these shapes"), ("small", "Small, every build order in every way")):
        yield from ("", f"{what}:", "")
        yield from header("way", "processes", "torch", *names)
        for row in rows:
            if row["size"] == size and "runs" in row:
                said = [runs_text(row["runs"].get(name, {}), found_by(rows, size, name)) for name in names]
                yield line(
                    way_text(row), *(", ".join(map(str, row[key])) for key in ("processes", "torch")), *said
                )
        for way, reason in not_run(rows, size).items():
            yield line(way, "not run here", reason, *[""] * len(names))
    yield from machines(record, "torch")


def fuzz_tables(record: Record) -> Iterator[str]:
    """Yield the lines of fuzzing: how many cases there were, and what they found."""
    yield from header("cases", "number")
    for what, number in record["results"].items():
        yield line(what, f"{number:,}")
    yield from ("", f"In {record['minutes']:g} minutes {record['findings']} findings.", *machines(record))


def not_run(rows: list[Record], size: str) -> dict[str, str]:
    """Return what was left out, and why: also ways that models of the other size went alone."""
    reasons = {row["way"]: "; ".join(row.get("not_run", ())) for row in rows if row["size"] == size}
    others = {row["way"]: "not reached" for row in rows if "runs" in row and row["way"] not in reasons}
    return {way: reason for way, reason in (reasons | others).items() if reason}


def found_by(rows: list[Record], size: str, name: str) -> list[str]:
    """Return all the fingerprints of a model, the first one first."""
    found = [row["runs"].get(name, ()) for row in rows if row["size"] == size and "runs" in row]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def fingerprints_text(found: list[str]) -> str:
    return " and ".join(f"`{each}`" for each in found) or "-"


def runs_text(runs: dict[str, int], found: list[str]) -> str:
    """Return how many runs gave the model's one fingerprint; which ones, if there are others."""
    if not runs:
        return "-"
    return f"{sum(runs.values())} equal" if [*runs] == found else f"**differs: {fingerprints_text([*runs])}**"


def way_text(row: Record) -> str:
    return f"{row['way']} {row['deepspeed']}" if "deepspeed" in row else row["way"]


TABLES = {
    "stream": stream_tables,
    "crush": crush_tables,
    "dieharder": stream_tables,
    "finished": stream_tables,
    "samples": samples_tables,
    "truncated": samples_tables,
    "one_fingerprint": one_fingerprint_tables,
    "fuzz": fuzz_tables,
}


def with_tables(text: str, kind: str, record: Record) -> str:
    """Return a page's text with the tables of one record in their place."""
    begin, end = MARKERS[kind]
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return "\n".join([f"{before}{begin}", *TABLES[kind](record), f"{end}{after}"])


def main() -> None:
    text = PAGE.read_text()
    for kind in TABLES:
        text = with_tables(text, kind, json.loads(FILES[kind].read_text()))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
