"""inspect_model: a copy of a model runs once, forwards and backwards, for each recipe."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from convinit_ext._engine import lines, naming, reason, uncompiled
from convinit_ext.inspection._inputs import ACCEPTED, Inputs, checked_inputs, guesses
from convinit_ext.inspection._problems import problems_of
from convinit_ext.inspection._recorder import Recorder, floats_in
from convinit_ext.inspection._result import Inspection, LayerRow, WeightRow
from convinit_ext.inspection._weights import weight_rows
from convinit_ext.keys import checked_seed, cuda_is_in_use
from convinit_ext.model import AnyRecipe, Frozen, Options, init_model_, make_plan, walk
from convinit_ext.recipes import Recipe, Rule, as_recipe, check_given, generators_kept
from convinit_ext.sharding import fsdp_state, is_sharded


@uncompiled
def inspect_model(
    model: nn.Module,
    inputs: Any = None,
    recipe: AnyRecipe | Sequence[AnyRecipe] | None = None,
    seed: int = 0,
    *,
    expected: AnyRecipe | None = None,
    frozen: Frozen = None,
) -> Inspection:
    """Look at how a model's signal and gradients spread over its layers, and at its weights.

    A copy runs once on the inputs, in the mode (training or not) that the model is in; then gradients of
    std 1 go backwards from its floating-point outputs, or a 1 from its `loss` if it returns one. The model,
    the inputs and the states of random number generators stay as they are.

    Args:
        model: any module; one on the meta device needs a recipe.
        inputs: a tensor, a tuple of arguments or a dict of keyword arguments; None guesses a random batch
            from the first layers.
        recipe: what the copy is filled by, as for init_model_, or a list of several to compare; None looks
            at the model as it is.
        seed: of the values, of guessed inputs, and of what the model itself draws.
        expected: without recipe: the recipe that says what the weights are held against.
        frozen: as for init_model_.

    Returns:
        An Inspection: `print` shows it, `.problems` says in sentences what is wrong, `.rows` and `.weights`
        have a row for each layer and parameter, `.plot(path)` draws them.

    Raises:
        ValueError: no inputs could be guessed; sharded parameters, lazy ones, and ones on the meta device
            without a recipe; what init_model_ refuses.
        RuntimeError: the model raised an error on the inputs, or cannot be copied.
        TypeError: an argument of another type.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> inspect_model(model, recipe="he").problems
    ()
    >>> _ = nn.init.zeros_(model[0].weight)
    >>> inspect_model(model).problems[0]
    'dead: the output of 0 (Linear) is the same for every input'
    """
    seed = checked_seed(seed)
    if recipe is not None and expected is not None:
        raise ValueError("expected= is for a model as it is, without recipe=, which says what is expected")
    recipes = _named(recipe)
    intended = None if expected is None else as_recipe(expected)
    given = None if inputs is None else checked_inputs(inputs)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    model = walk.unwrapped(model)
    _check(model, has_values=recipe is None)
    rows: list[LayerRow] = []
    weights: list[WeightRow] = []
    problems: list[str] = []
    for name, each in recipes.items():
        gpus = range(torch.cuda.device_count() if cuda_is_in_use() else 0)
        with generators_kept(gpus), torch.inference_mode(False):  # which enables gradients
            seen, plan = _copied(model), None
            if each is not None:
                init_model_(seen, seed, each, frozen=frozen)
            if each or intended:
                plan = make_plan(seen, seed, Options(each or intended, frozen=frozen, reading=True))
            recorder = Recorder(seen)
            given, outputs = _run(seen, recorder, given, seed)
            recorder.close()  # checkpointed layers run again on the way back
            _send_back(outputs, seed)
        found, parameters = recorder.rows(name), weight_rows(name, seen, plan)
        about = f"{name}: " if len(recipes) > 1 else ""
        problems += [about + text for text in problems_of(found, parameters, bool(outputs))]
        rows += found
        weights += parameters
    assert given is not None
    kind = type(model).__name__
    return Inspection(tuple(rows), tuple(weights), tuple(problems), tuple(recipes), kind, given.text, seed)


def _named(recipe: AnyRecipe | Sequence[AnyRecipe] | None) -> dict[str, Recipe | None]:
    """Return what to look at by name; None is the model as it is."""
    if recipe is None:
        return {"as it is": None}
    is_one = not isinstance(recipe, list | tuple) or not recipe or isinstance(recipe[0], Rule)
    found: dict[str, Recipe | None] = {}
    for each in map(as_recipe, cast("list[AnyRecipe]", [recipe] if is_one else recipe)):
        found[f"{each.name} ({len(found) + 1})" if each.name in found else each.name] = each
    return found


def _check(model: nn.Module, has_values: bool) -> None:
    nodes = list(walk.modules(model))
    if any(isinstance(node.module, torch.jit.ScriptModule) for node in nodes):
        raise ValueError("model must be one that is not scripted: torch.jit's modules let nobody watch them")
    is_fsdp = any(fsdp_state(node.module) is not None for node in nodes)
    for held in [*walk.parameters(nodes), *walk.buffers(nodes)]:
        if is_fsdp or is_sharded(held.tensor):
            raise ValueError(
                f"{held.path!r} is shared out over processes, and inspect_model runs a copy in one; accepted "
                "is the model before it is sharded, on one process"
            )
        if held.tensor.is_meta and has_values:
            raise ValueError(
                f"{held.path!r} is on the meta device and has no values; say recipe= (--recipe), by which a "
                "copy gets memory, or build the model where it has some"
            )
        with naming(repr(held.path)):
            check_given(held.tensor, held.tensor)


def _copied(model: nn.Module) -> nn.Module:
    # What hooks compute anew, such as the weights of torch.nn.utils.weight_norm, deepcopy refuses.
    held = [each for module in model.modules() for each in vars(module).values() if isinstance(each, Tensor)]
    computed = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, cast("dict[int, Any]", computed))
    except Exception as error:  # a module's own code may raise anything
        why = f"{type(error).__name__}: {reason(error)}"
        raise RuntimeError(f"inspect_model runs a copy, and copy.deepcopy(model) raised {why}") from error


def _run(
    model: nn.Module, recorder: Recorder, given: Inputs | None, seed: int
) -> tuple[Inputs, list[Tensor]]:
    """Run the model on the inputs, or the first guess that it takes; return these, and the outputs."""
    failed: dict[str, str] = {}  # the first inputs of each error
    name = type(model).__name__
    for inputs in guesses(model, seed) if given is None else [given]:
        _seed_all(seed)
        recorder.clear()
        try:
            args, kwargs = inputs.fresh()
            return inputs, [each for each in floats_in(model(*args, **kwargs)) if each.requires_grad]
        except Exception as error:  # it is the user's code, and may raise anything
            why = f"{type(error).__name__}: {reason(error)}"
            if given is not None:
                raise RuntimeError(f"{name} raised an error on inputs {given.text}: {why}") from error
            failed.setdefault(why, inputs.text)
    tried = lines([f"{text}: {why}" for why, text in failed.items()]) or " nothing"
    raise ValueError(
        f"no inputs of {name} could be guessed, by its embedding, linear, convolution and RNN layers; pass "
        f"inputs= (--inputs MODULE:NAME), {ACCEPTED}. Tried:{tried}"
    )


def _send_back(outputs: list[Tensor], seed: int) -> None:
    """Send gradients of std 1 backwards; a single number, as a loss is, gets 1."""
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(each.shape, generator=generator).to(each) for each in outputs]
    for output, gradient in zip(outputs, gradients, strict=True):
        if output.numel() == 1:
            gradient.fill_(1.0)
    if outputs:
        torch.autograd.backward(outputs, gradients)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if cuda_is_in_use():
        torch.cuda.manual_seed_all(seed)
