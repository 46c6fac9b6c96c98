"""The commands that look at weights: `verify` and `fingerprint`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping

import torch

from convinit_ext.checkpoint import fingerprint, fingerprints, open_weights, verify
from convinit_ext.cli._arguments import FAILURE
from convinit_ext.cli._arguments import seed as seed_of
from convinit_ext.cli._common import CommandError, built, imported
from convinit_ext.model import plan_model
from convinit_ext.recipes import RECIPES


def run_verify(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    metadata = open_weights(options.path).metadata
    seed, recipe = _said_by(metadata, options, functools.partial(print, file=sys.stderr))
    found = verify(
        options.path,
        seed,
        imported(recipe, "recipe") if ":" in recipe else recipe,
        getattr(torch, options.dtype) if options.dtype else None,
        model=built(imported(options.model, "model"), options.construct != "cpu", torch.device("cpu")),
        only=options.only,
        skip=options.skip,
    )
    print(found.to_json(indent=2) if options.json else found)
    return 0 if found else FAILURE


def _said_by(
    metadata: Mapping[str, str], options: argparse.Namespace, say: Callable[[str], None]
) -> tuple[int, str]:
    """The seed and the recipe: as given, otherwise those that the file was saved with."""
    try:
        seed = seed_of(metadata.get("seed", "0")) if options.seed is None else options.seed
    except argparse.ArgumentTypeError as error:
        raise CommandError(f"the seed that {options.path} says is of no use, pass --seed: {error}") from error
    recipe = metadata.get("recipe", "torch") if options.recipe is None else options.recipe
    if options.recipe is None and recipe not in RECIPES:  # nothing that a file names is imported or opened
        raise CommandError(f"{options.path} says recipe {recipe!r}, which is none of ours; pass --recipe")
    for what, given, taken in (("seed", options.seed, seed), ("recipe", options.recipe, recipe)):
        stored = metadata.get(what)
        if stored is not None and given is None:
            say(f"notice: {what} {taken}, as {options.path} says")
        elif stored is not None and stored != str(given):
            say(f"notice: {what} {given}, as given, though {options.path} says {stored}")
    return seed, recipe


def run_fingerprint(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    if (options.path is None) == (options.model is None):
        raise CommandError("say either a PATH or --model")
    if options.each and options.path is None:
        raise CommandError("--each is for a PATH")
    for name in ("seed", "recipe", "dtype", "construct"):
        if options.path is not None and getattr(options, name) is not None:
            raise CommandError(f"--{name} is for --model")
    number = _planned(options) if options.path is None else fingerprint(options.path)
    each = fingerprints(options.path) if options.each else {}
    if options.json:
        print(json.dumps({"fingerprint": number} | ({"tensors": each} if each else {}), indent=2))
    else:
        print("\n".join([*(f"{own}  {name}" for name, own in each.items()), number]))
    if options.expect is not None and number != options.expect:
        print(f"convinit_ext fingerprint: it is {number}, and not {options.expect}", file=sys.stderr)
        return FAILURE
    return 0


def _planned(options: argparse.Namespace) -> str:
    model = built(imported(options.model, "model"), options.construct != "cpu", torch.device("cpu"))
    said = options.recipe or "torch"
    recipe = imported(said, "recipe") if ":" in said else said
    dtype = getattr(torch, options.dtype) if options.dtype else None
    return plan_model(model, options.seed or 0, recipe, dtype=dtype).fingerprint()
