"""The command `inspect`: a model's signal and weights by one recipe or several, as a text and a picture."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from convinit_ext.cli._common import builder, built, imported, recipe_of
from convinit_ext.inspection import check_picture, inspect_model


def run_inspect(options: argparse.Namespace) -> None:
    if options.plot:
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
