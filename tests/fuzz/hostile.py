"""Makes the cases of fuzz.py: calls of public functions with any arguments, and files that are not right."""

import base64
import inspect
import json
import math  # noqa: F401  # for eval
import random
from collections.abc import Callable
from typing import Any

import numpy as np  # noqa: F401  # for eval
import torch
from safetensors.torch import save
from torch import nn  # noqa: F401  # for eval

import convinit_ext as package
from convinit_ext import Key, Shard, init, recipes  # noqa: F401  # for eval

# Python text, by which the corpus says what an argument was.
HOSTILE = """None; True; 0; 1; -1; 2**31; 2**63; -(2**63) - 1; 10**400; 0.5; -0.0; 1e308; 1j; math.nan
math.inf; -math.inf; ''; 'x'; '\\0'; '\\ud800'; b'x'; ...; (); [1]; [None]; [[]]; (2**62, 2**62); (0, -1)
range(3); {}; {'a': 1}; {3}; int; len; iter([1]); object(); np.float64('nan'); np.int64(-1); np.zeros(2)
torch.int8; torch.Generator(); torch.empty(0, 3); torch.tensor(1.0); torch.zeros(3, 2).long()
torch.zeros(2, 2) == 0; torch.zeros(2, 2) * 1j; torch.zeros(2, 2).to_sparse(); torch.zeros(2, device='meta')
torch.zeros(1).expand(3, 3); torch.zeros([1] * 40); torch.zeros(2, 2, requires_grad=True)
torch.zeros(2, 2, requires_grad=True) * 2; nn.LazyLinear(3); nn.Linear(2, 2); Key(0, 'a')
Shard((8, 8), (0, 0)); recipes.Rule(recipes.Kaiming(), name='*')""".replace("\n", "; ").split("; ")
SENSIBLE = {
    "tensor": "torch.zeros(4, 6)",
    "model": "nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))",
    "target": "nn.Linear(3, 4)",
    "key": "Key(0, 'a')",
    "shard": "Shard((8, 6), (0, 0))",
    "recipe": "'he'",
    "name": "'a.weight'",
    "shape": "(4, 6)",
    "offset": "(0, 0)",
    "nonlinearity": "'relu'",
    "mode": "'fan_in'",
}
SENSIBLE |= dict.fromkeys(
    ("seed", "groups", "blocks", "dim", "rank", "start", "gain", "std", "b", "high"), "1"
)
SENSIBLE |= dict.fromkeys(("num_ranks", "length", "num_layers", "cut"), "2")
CALLS: dict[str, Callable[..., object]] = {
    **{f"init.{name}": getattr(init, name) for name in init.__all__},
    **{name: getattr(package, name) for name in package.__all__ if callable(getattr(package, name))},
    **{f"Shard.{name}": getattr(Shard, name) for name in ("flat", "split")},
    **{
        f"recipes.{name}": getattr(recipes, name)
        for name in recipes.__all__
        if callable(getattr(recipes, name))
    },
}
for _name in ("save_model", "Inspection", "Verification"):  # the first writes files; the others are results
    CALLS.pop(_name)
for _name in ("Target", "MupTable", "MupRow", "DeepNormScales"):
    CALLS.pop(f"recipes.{_name}")


Case = dict[str, Any]


def made_call(choose: random.Random) -> Case:
    name = choose.choice(sorted(CALLS))
    arguments = {}
    for parameter in inspect.signature(CALLS[name]).parameters.values():
        needed = parameter.default is parameter.empty and parameter.kind not in (2, 4)  # not *args, **kwargs
        if parameter.kind not in (2, 4) and (needed or choose.random() < 0.3):
            sensible = SENSIBLE.get(parameter.name) if choose.random() < 0.7 else None
            arguments[parameter.name] = sensible or choose.choice(HOSTILE)
    return {"call": name, "arguments": arguments}


def made_file(choose: random.Random) -> Case:
    """A file of safetensors with a wrong head, length or byte; sometimes with an index."""
    dtypes = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
    tensors = {
        name: torch.ones(choose.choice([(), (0,), (2, 3)]), dtype=choose.choice(dtypes))
        for name in ("weight", "b")
    }
    whole = save(tensors, {"contract": "1"})
    size = int.from_bytes(whole[:8], "little")
    head, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    texts = ["", "F32", "F4", "BOOL", "U64", "\0", "../x", "weight", "module.weight", "\ud800"]
    for _ in range(choose.randrange(3)):
        numbers = [-1, 0, 1, 8, 2**31, 2**63, 2**64, 1e9, None, True, "1", [], {}, [0], [0, 2**64], [8, 0]]
        where = choose.choice([head, *(each for each in head.values() if isinstance(each, dict))])
        chosen = choose.choice([*numbers, *texts, *head.values(), [2**62, 8]])
        where[choose.choice([*where, *texts])] = json.loads(json.dumps(chosen))
    text = json.dumps(head).encode()
    if choose.random() < 0.2:
        text = choose.choice(
            [text * 2, text[:-1], b"[" * 5000, text.replace(b'"b"', b'"weight"'), b"\xff" + text]
        )
    length = len(text) if choose.random() < 0.8 else choose.choice([0, 1, 2**31, 2**63, len(text) + 1])
    content = bytearray(length.to_bytes(8, "little") + text + data)
    for _ in range(choose.choice([0, 0, 1, 5])):
        content[choose.randrange(len(content))] = choose.randrange(256)
    content = content[
        : choose.choice([len(content)] * 4 + [len(content) - 1, choose.randrange(len(content))])
    ]
    case = {"file": base64.b64encode(bytes(content)).decode()}
    if choose.random() < 0.3:
        names = ["a.safetensors", "b.safetensors", "../a.safetensors", "", ".", "/", "a\0b", 1, None]
        index = {
            "weight_map": {
                name: choose.choice(names[: choose.choice([1, 9])]) for name in [*head, *texts[:2]]
            }
        }
        index |= {"metadata": {"total_size": choose.choice([0, 24, -1, 1e400, None, "24", []])}}
        index[choose.choice(["x", "metadata", "weight_map"])] = choose.choice(
            [{}, [], None, 0, "a.safetensors"]
        )
        case["index"] = json.dumps(index)
    return case


def value(text: str) -> object:
    """Return what an argument's text says, made anew."""
    return eval(text)
