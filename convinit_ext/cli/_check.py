"""The commands that look at weights and models: `verify`, `fingerprint` and `inspect`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

from convinit_ext.checkpoint import fingerprint, fingerprints, open_weights, verify
from convinit_ext.cli._arguments import FAILURE, ArgumentError, of_arguments, seed_of
from convinit_ext.cli._common import builder, built, check_exists, dtype_of, imported, recipe_of
from convinit_ext.inspection import check_picture, inspect_model
from convinit_ext.model import plan_model
from convinit_ext.recipes import RECIPES


def run_verify(options: argparse.Namespace) -> int:
    check_exists(options.path)
    seed, recipe = _seed_and_recipe(open_weights(options.path).metadata, options)
    found = verify(
        options.path,
        seed,
        recipe_of(recipe, options.allow_code),
        dtype_of(options.dtype),
        model=built(builder(options.model), options.construct != "cpu"),
        only=options.only,
        skip=options.skip,
        frozen=options.frozen,
    )
    print(found.to_json(indent=2) if options.json else found)
    return 0 if found else FAILURE


def _seed_and_recipe(metadata: Mapping[str, str], options: argparse.Namespace) -> tuple[int, str]:
    """Return what is given, else what the file was saved with, and say so; also where the two differ."""
    path = options.path
    try:
        seed = seed_of(metadata.get("seed", "0")) if options.seed is None else options.seed
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"the seed that {path} says is of no use, pass --seed: {error}") from error
    recipe = metadata.get("recipe", "torch") if options.recipe is None else options.recipe
    if options.recipe is None and recipe not in RECIPES:  # nothing that a file names is imported or opened
        raise ValueError(f"{path} says recipe {recipe!r}, which is none of ours; pass --recipe")
    for what, given, taken in (("seed", options.seed, seed), ("recipe", options.recipe, recipe)):
        stored = metadata.get(what)
        if stored is not None and given is None:
            print(f"notice: {what} {taken}, as {path} says", file=sys.stderr)
        elif stored is not None and stored != str(given):
            print(f"notice: {what} {given}, as given, though {path} says {stored}", file=sys.stderr)
    return seed, recipe


def run_fingerprint(options: argparse.Namespace) -> int:
    of_file = options.path is not None
    if of_file == (options.model is not None):
        raise ArgumentError("say either a PATH or --model")
    if options.each and not of_file:
        raise ArgumentError("--each is for a PATH")
    for name in ("seed", "recipe", "allow_code", "dtype", "construct", "frozen"):
        if of_file and getattr(options, name) is not None:
            raise ArgumentError(f"--{name.replace('_', '-')} is for --model")
    if of_file:
        check_exists(options.path)
    number = fingerprint(options.path) if of_file else _planned(options)
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
    model = built(builder(options.model), options.construct != "cpu")
    recipe = recipe_of(options.recipe or "torch", options.allow_code)
    return plan_model(
        model, options.seed or 0, recipe, dtype=dtype_of(options.dtype), frozen=options.frozen
    ).fingerprint()


def run_inspect(options: argparse.Namespace) -> None:
    if options.plot:
        with of_arguments():
            check_picture(options.plot)  # before the work
    recipes = [recipe_of(text, options.allow_code) for text in options.recipe or ()]
    expected = recipe_of(options.expected, options.allow_code) if options.expected else None
    build = builder(options.model)
    inputs = _inputs(options.inputs) if options.inputs else None
    torch.manual_seed(options.seed)  # a model as it is has the values of its constructor
    model = built(build, on_meta=False)
    found = inspect_model(
        model, inputs, recipes or None, options.seed, expected=expected, frozen=options.frozen
    )
    if options.plot:
        found.plot(options.plot)
    print(found.to_json(indent=2) if options.json else found)


def _inputs(spec: str) -> Any:
    """Return what MODULE:NAME is, or what it returns if it is a function."""
    found = imported(spec, "inputs")
    if not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # it is the user's code, and may raise anything
        raise RuntimeError(f"inputs {spec!r} raised {type(error).__name__}: {error}") from error
