"""Errors of a rule's own functions, and of names=: the parameter and the rule stand before what they say."""

from __future__ import annotations

import pytest
from torch import nn

from convinit_ext import Constant, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import Rule, depth_scaled


class OwnError(Exception):
    def __init__(self, first, second) -> None:
        super().__init__(first)


RAISED = {
    "zero": (ZeroDivisionError("by zero"), ValueError, r"ZeroDivisionError\('by zero'\)"),
    "key": (KeyError("w"), LookupError, r"KeyError\('w'\)"),
    "index": (IndexError("out of range"), LookupError, r"IndexError\('out of range'\)"),
    "assert": (AssertionError(), ValueError, r"AssertionError\(\)"),
    "own": (OwnError("said", 2), ValueError, r"OwnError\('said'\)"),
    "bytes": (UnicodeDecodeError("utf8", b"a", 0, 1, "odd"), ValueError, "'utf8' codec can't decode.*"),
    "stop": (StopIteration(), ValueError, r"StopIteration\(\)"),
    "not implemented": (NotImplementedError("not yet"), RuntimeError, "not yet"),
    "type": (TypeError("no type"), TypeError, "no type"),
    "attribute": (AttributeError("no attribute"), AttributeError, "no attribute"),
}


@pytest.mark.parametrize("case", RAISED)
def test_they_name_the_parameter_and_the_rule(case, tmp_path):
    error, kind, says = RAISED[case]

    def fails(_):
        raise error

    model = nn.Sequential(nn.Linear(4, 4))
    before = fingerprint(model)
    for rule, about in (
        (Rule(Constant(1.0), where=fails), r"'0\.weight', where of ones_"),
        (Rule(fails), r"parameter '0\.weight', fails"),
    ):
        for recipe in ([rule], depth_scaled([rule], num_layers=2, weights="0.weight")):
            for asked in (
                plan_model,
                init_model_,
                verify,
                lambda each, recipe: save_model(each, tmp_path / "new", recipe=recipe),
            ):
                with pytest.raises(kind, match=f"{about}.*: {says}$") as found:
                    asked(model, recipe=recipe)
                assert found.value.__cause__ in (error, getattr(found.value.__cause__, "__cause__", None))
    assert fingerprint(model) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("case", RAISED)
def test_they_name_the_buffer(case):
    error, kind, says = RAISED[case]

    def fails(_):
        raise error

    model = nn.Sequential(nn.BatchNorm1d(4))
    for rule in (Rule(Constant(1.0), where=fails, buffer="*"), Rule(fails, buffer="*")):
        with pytest.raises(kind, match=f"'0.running_mean', .*: {says}$"):
            plan_model(model, recipe=[rule, Rule(Constant(1.0))])


@pytest.mark.parametrize("case", RAISED)
def test_those_of_names_name_what_they_were_asked(case):
    error, kind, says = RAISED[case]

    def fails(_):
        raise error

    kind = ValueError if kind is LookupError else kind
    with pytest.raises(kind, match=rf"names: .*'0\.weight'.*: {says}$"):
        plan_model(nn.Sequential(nn.Linear(4, 4)), names=fails)
