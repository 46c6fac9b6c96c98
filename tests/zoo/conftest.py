"""Counts what the sweep found, and prints it at the end."""

from collections import Counter

_WORDS = ("right", "listed", "wrong")


def pytest_terminal_summary(terminalreporter) -> None:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if "test_zoo.py" not in report.nodeid:
                continue
            family = report.nodeid.partition("[")[2].partition("-")[0]
            for asked, word in report.user_properties:
                counts.setdefault((family, asked), Counter())[word] += 1
    if counts:
        terminalreporter.section("model types by library and recipe")
        terminalreporter.write_line(f"{'':35}" + "".join(f"{word:>8}" for word in _WORDS))
        for (family, asked), found in sorted(counts.items()):
            numbers = "".join(f"{found[word]:8}" for word in _WORDS)
            terminalreporter.write_line(f"{f'{family}, {asked}':35}{numbers}")
