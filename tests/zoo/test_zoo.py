"""The model types of four libraries under every recipe: right or listed (refused, with names), never wrong.

`make test-zoo` runs it, in an environment of its own, and prints how many types are what.
"""

import contextlib
import importlib.util
import signal
from collections.abc import Iterator

import pytest
from planning import GENERAL

if not all(map(importlib.util.find_spec, ("transformers", "timm", "diffusers", "torchtitan"))):
    pytest.skip("make test-zoo runs it, with the libraries", allow_module_level=True)

from judging import Library, judged
from tiny_models import FAMILIES, quiet, without_torchvisions_ops

_SECONDS = 900  # for one type
_IN_MEMORY = ("torch", "llama")


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside the block once it takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


without_torchvisions_ops()
with quiet():
    TYPES = [
        pytest.param(build, id=f"{family}-{name}")
        for family, of in FAMILIES.items()
        for name, build in of().items()
    ]


@pytest.mark.parametrize("build_of", TYPES)
def test_no_recipe_makes_anything_wrong_of(build_of, record_property):
    wrong = []
    with at_most(_SECONDS), quiet():
        try:
            library = Library(build_of())
        except Exception as error:
            reason = f"does not build: {type(error).__name__}: {str(error)[:200]}"
            pytest.skip(reason)
        for recipe in GENERAL:
            for meta in (True, False) if recipe in _IN_MEMORY else (True,):
                verdict = judged(library, recipe, meta)
                record_property(f"{recipe}, {'meta' if meta else 'memory'}", verdict.word)
                wrong += [f"{recipe}: {name}: {what}" for name, what in verdict.wrong.items()]
    assert not wrong, "\n".join(dict.fromkeys(wrong))
