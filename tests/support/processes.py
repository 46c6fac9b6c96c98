"""Python in processes of its own: scripts, alone or as the ranks of a job, and anything else."""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ranks import ENDED

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


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


def run_script(script: Path, *arguments: object, num_processes: int | None = None) -> str:
    """What the script prints; AssertionError with everything it said if it failed.

    With `num_processes` it runs as that many ranks, by torchrun.
    """
    ranks = [] if num_processes is None else [*TORCHRUN, str(num_processes)]
    result = subprocess.run(
        [sys.executable, *ranks, str(script), *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class Ranks:
    """A process that runs scripts as the ranks of a job, by ranks.py, and imports what they need once."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as this is
        self._process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "ranks.py")],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        atexit.register(self.close)

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()

    def run(self, script: Path, num_processes: int) -> str:
        """What they print, as run_script."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._errors.seek(0)
        self._errors.truncate()
        self._process.stdin.write(f"{num_processes} {script}\n")
        self._process.stdin.flush()
        line, printed = "", []
        for line in self._process.stdout:
            if line.startswith(ENDED):
                break
            printed.append(line)
        self._errors.seek(0)
        assert line == f"{ENDED}0\n", "".join(printed) + self._errors.read()
        return "".join(printed)


@functools.cache
def shared_ranks() -> Ranks:
    return Ranks()


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
