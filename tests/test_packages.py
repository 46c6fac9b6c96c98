"""What is handed out: the source distribution holds everything that git does, and the wheel is small."""

import subprocess
import tarfile
from pathlib import Path

import pytest
from processes import ROOT, run_python

from convinit_ext import _C

pytestmark = pytest.mark.slow


def test_a_source_distribution_holds_all_that_builds_and_tests(tmp_path: Path):
    """Also what this build leaves out, such as csrc/cuda; and nothing that a build or a test has written."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode or not listing.stdout:
        pytest.skip("this is no working tree of git")
    command = (
        "setup.py",
        "--quiet",
        "egg_info",
        "--egg-base",
        str(tmp_path),
    )  # none of an earlier one's files
    result = run_python(*command, "sdist", "--dist-dir", str(tmp_path), CONVINIT_CUDA="0")
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {member.name.partition("/")[2] for member in files.getmembers() if member.isfile()}
    tracked = set(listing.stdout.splitlines())
    assert tracked - names == set()
    assert [name for name in names - tracked if name.endswith((".so", ".pyc", "_build.py"))] == []


@pytest.mark.skipif(
    _C.build_info()["cuda"] != "not built", reason="a build with CUDA holds code for many GPUs"
)
def test_a_wheel_is_small(tmp_path: Path):
    settings = tmp_path / "settings.cfg"
    settings.write_text(f"[build]\nbuild_lib = {tmp_path / 'lib'}\n")  # none of an earlier build's files
    command = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(tmp_path), ".")
    result = run_python(*command, DIST_EXTRA_CONFIG=str(settings))
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1_300_000
