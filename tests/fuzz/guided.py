"""Fuzzing of safetensors files that is guided by coverage; needs atheris (pip install atheris).

python tests/fuzz/guided.py FOLDER -max_total_time=600    # libFuzzer's options; what reaches new code is kept

A crash is a file crash-*, which `finding({"file": BASE64})` of fuzz.py runs again.
"""

import base64
import random
import sys
import warnings
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["convinit_ext.checkpoint", "json"]):
        import fuzz

    def one_input(data: bytes) -> None:
        if found := fuzz.finding({"file": base64.b64encode(data).decode()}):
            raise AssertionError(found)

    warnings.simplefilter("ignore")
    for number in range(50 if len(sys.argv) > 1 else 0):
        start = Path(sys.argv[1]) / f"start-{number}"
        start.write_bytes(base64.b64decode(fuzz.made_file(random.Random(number))["file"]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
