"""Python in processes of its own: scripts, alone or as the ranks of a job, and anything else."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
FOLDERS = (SUPPORT, ROOT)  # the package too, where it is built in place and not installed
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

# Ends a script that has forked `child`: with its status, or with an error if it waits for ever.
AWAIT_CHILD = """
import sys, time
for _ in range(3000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.02)
os.kill(child, 9)
sys.exit("the child did not end")
"""


def run_script(
    script: Path, num_processes: int | None = None, *arguments: object, torchrun: bool = False
) -> str:
    """What the script prints; AssertionError with everything it said if it failed.

    With `num_processes` it runs as that many ranks: by ranks.py, which is quick and takes no arguments, or by
    torchrun.
    """
    if num_processes is None:
        command = [str(script), *map(str, arguments)]
    elif torchrun:
        command = [*TORCHRUN, str(num_processes), str(script)]
    else:
        command = [str(SUPPORT / "ranks.py"), str(script), str(num_processes)]
    result = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_python(
    *arguments: str, cwd: Path = ROOT, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Another Python, without this one's CONVINIT_ISA unless given."""
    inherited = {name: value for name, value in os.environ.items() if name != "CONVINIT_ISA"}
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
