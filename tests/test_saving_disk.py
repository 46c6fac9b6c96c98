"""A disk that is full in the middle of saving: a small one, mounted where no other process sees it."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys

import pytest

WITH_A_SMALL_DISK = 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"'
# 3 of 4 files fit. The disk says that there is room, as where something else takes it afterwards.
SAVE = """
import json, os, shutil, sys, torch
from convinit_ext import save_model, verify

def layers(count):
    with torch.device("meta"):
        return torch.nn.Sequential(*(torch.nn.Linear(500, 500) for _ in range(count)))

def attempt(path, count):
    try:
        save_model(layers(count), path, max_shard_size=None if path != folder else "1100KB")
        error = None
    except OSError as caught:
        error = [caught.errno, str(caught)]
    seen.append([error, sorted(os.listdir(folder))])

folder, usage, seen = sys.argv[1], shutil.disk_usage, []
shutil.disk_usage = lambda path: usage(path)._replace(free=10**12)
attempt(f"{folder}/all.safetensors", 4)
attempt(folder, 4)
attempt(folder, 4)
for each in os.listdir(folder):
    os.remove(f"{folder}/{each}")
attempt(folder, 2)
print(json.dumps([*seen, bool(verify(folder, model=layers(2)))]))
"""


def on_a_small_disk(folder, *command):
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", WITH_A_SMALL_DISK, str(folder), *command],
        capture_output=True,
        text=True,
    )


def test_a_disk_that_is_full_in_the_middle(tmp_path):
    if shutil.which("unshare") is None or on_a_small_disk(tmp_path, "true").returncode:
        pytest.skip("no file system can be mounted here")
    done = on_a_small_disk(tmp_path, sys.executable, "-c", SAVE, str(tmp_path))
    assert not done.returncode, done.stderr
    one, first, again, smaller, verified = json.loads(done.stdout)
    full = f"[Errno {errno.ENOSPC}] No space left on device: '{tmp_path}/"
    whole = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3)]
    assert one == [[errno.ENOSPC, f"{full}all.safetensors'"], []]
    assert first == again == [[errno.ENOSPC, f"{full}model-00004-of-00004.safetensors'"], whole]
    assert smaller[0] is None and len(smaller[1]) == 3 and verified
