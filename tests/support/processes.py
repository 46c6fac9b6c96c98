"""Python scripts in processes of their own, alone or by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
FOLDERS = (SUPPORT, ROOT)  # the package too, where it is built in place and not installed
# Once in many runs PyTorch's processes abort while they end, after all is done.
_AT_EXIT = "terminate called without an active exception"


def run_script(script: Path, num_processes: int | None = None) -> str:
    """What the script prints; AssertionError with everything it said if it failed."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes))
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, *(launcher if num_processes else ()), str(script)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
            capture_output=True,
            text=True,
            timeout=600,
        )
        if _AT_EXIT not in result.stderr:
            break
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
