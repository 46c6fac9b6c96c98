"""inspect_model: a copy of a model runs once, forwards and backwards, for each recipe."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from convinit_ext._engine import reason, uncompiled
from convinit_ext.inspection._inputs import Inputs, checked_inputs, guesses
from convinit_ext.inspection._problems import problems_of
from convinit_ext.inspection._recorder import Recorder, floats_in
from convinit_ext.inspection._result import Inspection, LayerRow, WeightRow
from convinit_ext.inspection._weights import weight_rows
from convinit_ext.keys import checked_seed
from convinit_ext.model import AnyRecipe, Frozen, Options, init_model_, make_plan, walk
from convinit_ext.recipes import Recipe, Rule, as_recipe
from convinit_ext.sharding import fsdp_state, is_sharded

AS_IT_IS = "as it is"
_BATCH_ERROR = "a tensor, a tuple of arguments or a dict of keyword arguments"


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
    std 1 go backwards from its floating-point outputs, or from its `loss` if it returns one. The model, the
    inputs and all random number generators stay as they are.

    Args:
        model: any module; one on the meta device needs a recipe.
        inputs: a tensor, a tuple of arguments or a dict of keyword arguments; None guesses a random batch
            from the first layers.
        recipe: what the copy is filled by, as for init_model_, or a list of several, which are compared; None
            looks at the model as it is.
        seed: of the values, of guessed inputs, and of what the model itself draws.
        expected: without recipe: the recipe that says what the weights are held against.
        frozen: as for init_model_.

    Returns:
        An Inspection: `print` shows it, `.problems` says in sentences what is wrong, `.rows` and `.weights`
        have a row for each layer and parameter, `.plot(path)` draws them.

    Raises:
        ValueError: no inputs could be guessed; sharded parameters; parameters on the meta device without a
            recipe; what init_model_ refuses.
        RuntimeError: the model raised an error on the inputs, or cannot be copied.
        TypeError: an argument of another type.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> inspect_model(model, recipe="he").problems
    ()
    >>> _ = nn.init.zeros_(model[0].weight)
    >>> inspect_model(model).problems[0]
    'dead: 0 (Linear) gives the same output for every input'
    """
    seed = checked_seed(seed)
    if recipe is not None and expected is not None:
        raise ValueError("expected= is for a model as it is, without recipe=, which says what is expected")
    recipes = _named(recipe)
    given = None if inputs is None else checked_inputs(inputs)
    model = _unwrapped(model)
    _check(model, has_values=recipe is None)
    rows: list[LayerRow] = []
    weights: list[WeightRow] = []
    problems: list[str] = []
    for name, each in recipes.items():
        with _randomness_kept():
            looked_at = _copied(model)
            if each is not None:
                init_model_(looked_at, seed, each, frozen=frozen)
            intended = each if expected is None else as_recipe(expected)
            options = None if intended is None else Options(intended, frozen=frozen, reading=True)
            plan = None if options is None else make_plan(looked_at, seed, options)
            recorder = Recorder(looked_at)
            given, outputs = _run(looked_at, recorder, given, seed)
            outputs = [output for output in outputs if output.requires_grad]
            _send_back(outputs, seed)
        own_rows = recorder.rows(name)
        own_weights = weight_rows(name, looked_at, plan)
        rows += own_rows
        weights += own_weights
        about = f"{name}: " if len(recipes) > 1 else ""
        problems += [about + text for text in problems_of(own_rows, own_weights, bool(outputs))]
    assert given is not None
    return Inspection(
        tuple(rows), tuple(weights), tuple(problems), tuple(recipes), type(model).__name__, given.text, seed
    )


def _named(recipe: AnyRecipe | Sequence[AnyRecipe] | None) -> dict[str, Recipe | None]:
    """Return what to look at by name; None is the model as it is."""
    if recipe is None:
        return {AS_IT_IS: None}
    is_one = not isinstance(recipe, list | tuple) or not recipe or any(isinstance(x, Rule) for x in recipe)
    recipes = [as_recipe(each) for each in cast("list[AnyRecipe]", [recipe] if is_one else recipe)]
    found: dict[str, Recipe | None] = {}
    for each in recipes:
        again = sum(name.partition(" (")[0] == each.name for name in found)
        found[f"{each.name} ({again + 1})" if again else each.name] = each
    return found


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, DataParallel and torch.compile, which have no layers of their own."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def _check(model: nn.Module, has_values: bool) -> None:
    nodes = list(walk.modules(model))
    for held in [*walk.parameters(nodes), *walk.buffers(nodes)]:
        if is_sharded(held.tensor) or fsdp_state(held.node.module) is not None:
            raise ValueError(
                f"{held.path!r} is shared out over processes, and inspect_model runs a copy in one; accepted "
                "is the model before it is sharded, on one process"
            )
        if held.tensor.is_meta and has_values:
            raise ValueError(
                f"{held.path!r} is on the meta device and has no values; say recipe= (--recipe), by which a "
                "copy gets memory, or build the model where it has some"
            )


def _copied(model: nn.Module) -> nn.Module:
    # tensors that hooks compute anew, such as the weights of torch.nn.utils.weight_norm, and deepcopy refuses
    computed = [x for module in model.modules() for x in vars(module).values() if isinstance(x, Tensor)]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in computed if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise RuntimeError(
            f"inspect_model runs a copy of the model, and copy.deepcopy(model) raised "
            f"{type(error).__name__}: {reason(error)}"
        ) from error


def _run(
    model: nn.Module, recorder: Recorder, given: Inputs | None, seed: int
) -> tuple[Inputs, list[Tensor]]:
    """Run the model on the inputs, or on the first guess that it takes; return them, and its outputs."""
    failed: list[str] = []
    error: Exception | None = None
    for inputs in guesses(model, seed) if given is None else [given]:
        _seed_all(seed)
        recorder.clear()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                args, kwargs = inputs.fresh()
                return inputs, floats_in(model(*args, **kwargs))
        except Exception as raised:  # it is the user's code, and may raise anything
            error = raised
            failed.append(f"{inputs.text} ({type(raised).__name__}: {str(raised).partition(chr(10))[0]})")
    name = type(model).__name__
    if given is not None and error is not None:
        raise RuntimeError(
            f"{name} raised {type(error).__name__} on inputs {given.text}: {reason(error)}"
        ) from error
    tried = f"tried {'; '.join(failed[-3:])}" if failed else "it has no embedding, linear, conv or RNN layer"
    raise ValueError(
        f"no inputs of {name} could be guessed: {tried}; pass inputs= (--inputs MODULE:NAME): {_BATCH_ERROR}"
    ) from error


def _send_back(outputs: list[Tensor], seed: int) -> None:
    """Send gradients of std 1 backwards from all outputs; a single number, as a loss is, gets 1."""
    generator = torch.Generator().manual_seed(seed)
    gradients = [
        torch.ones_like(each)
        if each.numel() == 1
        else torch.randn(each.shape, generator=generator).to(each.device, each.dtype)
        for each in outputs
    ]
    if outputs:
        try:
            torch.autograd.backward(outputs, gradients)
        except Exception as error:
            raise RuntimeError(f"the backward pass raised {type(error).__name__}: {reason(error)}") from error


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Put the states of all random number generators back at the end."""
    own, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if _has_cuda() else []):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(of_numpy)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if _has_cuda():
        torch.cuda.manual_seed_all(seed)


def _has_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
