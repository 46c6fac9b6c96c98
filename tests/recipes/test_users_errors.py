"""A user's functions in rules, and names=: their errors name the parameter and the rule, and they write to
nothing that the model holds while it is planned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convinit_ext import Constant, Normal, fingerprint, init, init_model_, plan_model, save_model, verify
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


WRITES = {
    "bias": lambda target: target.module.bias.data.zero_(),
    "a buffer": lambda target: target.parents[0][2](torch.ones(2, 4)),
    "a row": lambda target: target.module.bias[:2].detach().fill_(1.0),
    "state dict": lambda target: [each.zero_() for each in target.module.state_dict().values()],
    "parents": lambda target: nn.init.ones_(target.parents[0][1].bias),
    "reset": lambda target: target.module.reset_parameters(),
    "ours": lambda target: init.normal_(target.parents[0][1].bias),
    "foreach": lambda target: torch._foreach_zero_([each.data for each in target.module.parameters()]),
    "out": lambda target: torch.add(torch.ones(4), 1, out=target.module.bias.data),
}


@pytest.mark.parametrize("case", WRITES)
def test_writing_to_what_else_the_model_holds_is_an_error(case, tmp_path):
    def writes(target):
        WRITES[case](target)
        return Normal() if asked_for_values else True

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = fingerprint(model)
    for asked_for_values in (True, False):
        rule = Rule(writes) if asked_for_values else Rule(Normal(), where=writes)
        for asked in (
            plan_model,
            init_model_,
            verify,
            lambda each, recipe: save_model(each, tmp_path / "new", recipe=recipe),
        ):
            with pytest.raises(
                RuntimeError, match=r"'0\.weight'.*it writes to '[0-2]\.(bias|num_\w+)' while"
            ):
                asked(model, recipe=[rule])
    assert fingerprint(model) == before
