"""Forked children have none of their parent's threads: nothing waits for them, and the bits are the same."""

import os
import subprocess
import sys

import pytest
from processes import AWAIT_CHILD

SCRIPT = """
import os
import torch
from torch import nn
from convinit_ext import Key, Shard, fingerprint, init, init_model_, intercept, plan_model, verify
from convinit_ext.recipes import TORCH, Orthogonal, Preset, Rule

torch.set_num_threads(NUM_THREADS)
KEY = Key(0, "weight")
model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
given, empty = torch.ones(300, 300), torch.empty(300, 300)
negative = torch.zeros(300, 300, dtype=torch.complex64).conj().imag
rules = [Rule(Orthogonal(), name="0.weight"), Rule(Preset(given), name="1.weight"), *TORCH]

def in_a_block():
    with intercept(model, seed=3):
        nn.init.zeros_(model[0].weight)
        nn.init.orthogonal_(model[1].weight)
    return model[1].weight

def filled():
    init_model_(model, 1, rules)
    assert verify(model, 1, rules) and plan_model(model, 1, rules).fingerprint() == fingerprint(model)
    return model[0].weight

CALLS = {
    "normal_": lambda: init.normal_(torch.empty(600_000), key=KEY),
    "orthogonal_": lambda: init.orthogonal_(empty, key=KEY),
    "sparse_": lambda: init.sparse_(empty, 0.5, key=KEY),
    "a shard": lambda: init.sparse_(empty, 0.5, key=KEY, shard=Shard((600, 300), (300, 0))),
    "eye_": lambda: init.eye_(empty),
    "identity_": lambda: init.identity_(empty[..., None], 2.0),
    "zeros_": lambda: init.zeros_(empty),
    "constant_": lambda: init.constant_(empty, 2.0),
    "a negated view": lambda: init.normal_(negative, key=KEY),
    "a model": filled,
    "intercept": in_a_block,
}

expected = {name: fingerprint(call()) for name, call in CALLS.items()}
child = os.fork()
if child == 0:
    for name, call in CALLS.items():
        print(name, "begins", flush=True)
        assert fingerprint(call()) == expected[name]
        assert torch.get_num_threads() == NUM_THREADS
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_forked_child_waits_for_no_thread(num_threads):
    script = f"NUM_THREADS = {num_threads}\n{SCRIPT}{AWAIT_CHILD}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
