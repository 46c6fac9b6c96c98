"""Says how many lines of csrc/cpu and csrc/core programs have run, and which they have not.

python scripts/native_coverage.py FOLDER PERCENT    # of objects that GCC compiled with --coverage

A line counts once, whichever instruction set, type or program ran it. Fails where fewer than PERCENT ran.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("csrc/cpu/", "csrc/core/")


def counts_of(folder: Path) -> dict[str, dict[int, int]]:
    """By file and line, how often it ran."""
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    command = [os.environ.get("GCOV", "gcov"), "--json-format", "--stdout", *map(str, folder.rglob("*.gcda"))]
    for text in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        for file in json.loads(text)["files"]:
            name = os.path.relpath(ROOT / file["file"], ROOT)
            if name.startswith(FOLDERS):
                for line in file["lines"]:
                    found[name][line["line_number"]] += line["count"]
    return found


def main() -> None:
    folder, least = Path(sys.argv[1]), float(sys.argv[2])
    found = counts_of(folder)
    ran = total = 0
    for name, lines in sorted(found.items()):
        missing = sorted(line for line, count in lines.items() if count == 0)
        ran, total = ran + len(lines) - len(missing), total + len(lines)
        print(f"{name}: {len(lines) - len(missing)} of {len(lines)} lines", *missing)
    percent = 100 * ran / max(1, total)
    print(f"csrc/cpu and csrc/core: {percent:.1f} % of {total} lines; accepted are {least:g} %")
    sys.exit(percent < least)


if __name__ == "__main__":
    main()
