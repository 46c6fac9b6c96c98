"""A user's functions in rules, and names=: their errors name the parameter and the rule, and they write to
nothing that the model holds while it is planned."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from convinit_ext import Constant, Normal, fingerprint, init, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, Rule, depth_scaled, unchanged


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


def test_what_a_signal_handler_raises_meanwhile_is_not_the_rules(monkeypatch):
    def interrupted(*_):
        raise TimeoutError("after a second")

    monkeypatch.setattr("convinit_ext.distributions.kaiming_std", interrupted)
    with pytest.raises(TimeoutError, match=r"^after a second$"):
        plan_model(nn.Linear(4, 4), recipe="he")


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
    "data": lambda target: setattr(target.module.bias, "data", torch.ones(4)),
    "gradient": lambda target: setattr(target.module.bias, "grad", torch.ones(4)),
    "frozen": lambda target: target.parents[0][1].bias.requires_grad_(False),
    "dtype": lambda target: target.parents[0][2].half(),
    "each number": lambda target: target.module.bias.data.apply_(lambda _: 1.0),
    "numbers of two": lambda target: target.module.bias.data.map_(torch.ones(4), lambda _, one: one),
    "shared memory": lambda target: target.module.bias.share_memory_(),
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
                RuntimeError, match=r"'0\.weight'.*it writes to '[0-2]\.(bias|num_\w+|weight)' while"
            ):
                asked(model, recipe=[rule])
    assert fingerprint(model) == before


CHANGES = {
    "a parameter": (lambda target: setattr(target.module, "bias", nn.Parameter(torch.ones(4))), "0.bias"),
    "of another module": (
        lambda target: setattr(target.parents[0].lstm, "bias_ih_l0", nn.Parameter(torch.ones(4))),
        "lstm.bias_ih_l0",
    ),
    "none": (lambda target: delattr(target.module, "bias"), "0.bias"),
    "a buffer": (lambda target: target.module.register_buffer("sum", torch.ones(1)), "0.sum"),
    "a module": (lambda target: setattr(target.parents[0], "0", nn.Identity()), "0"),
    "a hook": (lambda target: target.module.register_forward_hook(print), "0._forward_hooks"),
    "a type": (lambda target: setattr(target.parents[0].lstm, "__class__", nn.GRU), "lstm.__class__"),
}


class Cached(nn.Linear):
    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.in_features


HARMLESS = {
    "an attribute": lambda target: setattr(target.module, "in_features", 3),
    "a new one": lambda target: setattr(target.module, "seen", True),
    "a lost one": lambda target: delattr(target.module, "in_features"),
    "the mode": lambda target: target.parents[0].eval(),
    "a cached property": lambda target: target.module.twice,
    "of a tensor": lambda target: setattr(target.module.bias, "seen", True),
    "by NumPy": lambda target: target.module.bias.detach().numpy().fill(1),
    "by an array": lambda target: np.asarray(target.parents[0].lstm.bias_hh_l0.detach()).fill(1),
    "memory that is freed": lambda target: target.module.bias.untyped_storage().resize_(0),
    "memory that is freed elsewhere": lambda target: (
        target.parents[0].lstm.bias_hh_l0.data.untyped_storage().resize_(0)
    ),
    "memory": lambda target: target.module.bias.untyped_storage().fill_(1),
    "by DLPack": lambda target: torch.from_dlpack(target.module.bias.detach()).fill_(1),
}


def held_by(model: nn.Module) -> list[object]:
    facts = [
        (
            type(each),
            *[(name, value if type(value) is bool else id(value)) for name, value in vars(each).items()],
        )
        for each in model.modules()
    ]
    inner = [
        (list(each.items()) if isinstance(each, dict) else list(each))
        for module in model.modules()
        for each in vars(module).values()
        if isinstance(each, dict | list)
    ]
    return [
        facts,
        [[str(part) for part in each] for each in inner],
        [vars(each) for each in model.parameters()],
    ]


@pytest.mark.parametrize("case", [*CHANGES, *HARMLESS])
def test_a_plan_leaves_modules_as_they_were(case, tmp_path):
    changes, name = CHANGES.get(case) or (HARMLESS[case], None)

    def asked(target):
        changes(target)
        return Normal() if asked_for_values else True

    model = nn.Sequential()
    model.add_module("0", Cached(4, 4))
    model.add_module("lstm", nn.LSTM(3, 1))
    before, number, output = held_by(model), fingerprint(model), model.lstm(torch.ones(2, 3))[0]
    for asked_for_values in (True, False):
        own = (
            Rule(asked, name="0.weight") if asked_for_values else Rule(Normal(), name="0.weight", where=asked)
        )
        for plan in (
            plan_model,
            verify,
            lambda each, recipe: save_model(each, tmp_path / "new", recipe=recipe, overwrite=True),
        ):
            if name is None:
                plan(model, recipe=[own, *TORCH])
            else:
                with pytest.raises(RuntimeError, match=rf"functions of rules changed .*'{name}'.* is undone"):
                    plan(model, recipe=[own, *TORCH])
            assert held_by(model) == before and fingerprint(model) == number
            assert torch.equal(model.lstm(torch.ones(2, 3))[0], output)


def test_a_plan_swaps_no_tensors():
    def swaps(target):
        torch.utils.swap_tensors(target.module.bias, nn.Parameter(torch.ones(2)))

    model = nn.Linear(4, 4)
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match=r"parameter 'weight', swaps: Cannot swap t1"):
        plan_model(model, recipe=[Rule(swaps, name="weight"), *TORCH])
    assert fingerprint(model) == before
    torch.utils.swap_tensors(model.bias, nn.Parameter(torch.ones(4)))  # afterwards it may be


def test_functions_see_which_parameters_share_memory():
    def tied(target):
        first, second = (each.weight.untyped_storage().data_ptr() for each in target.parents[0])
        return Normal() if first == second else False

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    plan_model(model, recipe=[Rule(tied, name="0.bias"), *TORCH])


NO_FUNCTIONS = {"a module": nn.Identity(), "a type": str, "a tensor": torch.ones(1), "a list": ["0"]}


@pytest.mark.parametrize("case", NO_FUNCTIONS)
def test_what_is_no_function_is_not_called(case):
    given = NO_FUNCTIONS[case]
    with pytest.raises(TypeError, match="names must be a dict or a function of a name, not"):
        plan_model(nn.Linear(4, 4), names=given)
    with pytest.raises(TypeError, match="a rule's where must be a function of a Target, not"):
        Rule(Normal(), where=given)
    with pytest.raises(TypeError, match=r"a rule's init must be .* a function of a Target, not"):
        Rule(given)


@pytest.mark.parametrize(
    "given",
    [nn.init.zeros_, init.orthogonal_, nn.init.xavier_uniform, functools.partial(nn.init.normal_, std=0.02)],
    ids=["torch", "ours", "deprecated", "partial"],
)
def test_a_function_that_fills_a_tensor_is_no_rules(given):
    with pytest.raises(TypeError, match=r"takes a tensor, and not a Target: .*Kaiming\('normal'\)"):
        Rule(given)


def test_a_plan_that_an_interrupt_kept_from_closing_hides_nothing_from_the_next():
    model = nn.Linear(4, 4)
    changes = Rule(lambda target: setattr(target.module, "bias", nn.Parameter(torch.ones(4))) or Normal())
    unclosed = unchanged()
    unclosed.__enter__()
    with pytest.raises(RuntimeError, match="functions of rules changed 'bias'"):
        plan_model(model, recipe=[changes])
    unclosed.__exit__(None, None, None)
