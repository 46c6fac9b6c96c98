"""init_ensemble: many initialisations of one model, stacked for torch.func.functional_call and vmap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from convinit_ext._engine import naming, uncompiled
from convinit_ext.keys import checked_seed
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._names import Names
from convinit_ext.model._options import AnyRecipe, Frozen, Options
from convinit_ext.model._plan import Plan
from convinit_ext.model._planner import make_plan
from convinit_ext.model._run import check_memory
from convinit_ext.model._selection import Selectors
from convinit_ext.model._values import Drawn, fill_members
from convinit_ext.recipes import Fan, check_given
from convinit_ext.sharding import is_sharded


@uncompiled
def init_ensemble(
    model: nn.Module,
    seeds: Iterable[int],
    recipe: AnyRecipe = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    frozen: Frozen = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and buffers of one model as so many seeds initialise it, stacked.

    Slice n of each is what the model holds after init_model_(model, seeds[n]) of the same arguments, bit for
    bit; what that would leave as it is, is the same in all. The model itself is not changed, and may stay on
    the meta device.

    Args:
        model: as init_model_ takes it, of whole tensors.
        seeds: of the members, each as init_model_ takes it.
        recipe, device, dtype, fan, only, skip, names, frozen: as for init_model_. Fans are one member's.

    Returns:
        Two dicts by name, of parameters and of buffers, as torch.func.stack_module_state returns them:
        tensors [len(seeds), *shape], which require gradients where the model's do.

    Raises:
        ValueError: no seeds; a DTensor, or another part of a larger tensor; what init_model_ raises.
        TypeError: seeds that are none; what init_model_ raises.
        MemoryError: less memory available than the stacks need.

    Source: torch.func.stack_module_state.

    >>> model = nn.Linear(8, 4)
    >>> params, buffers = init_ensemble(model, seeds=range(16))
    >>> x = torch.ones(2, 8)
    >>> call = lambda member: torch.func.functional_call(model, member, x)
    >>> torch.func.vmap(call)(params).shape
    torch.Size([16, 2, 4])
    """
    members = _checked_seeds(seeds)
    plan = make_plan(model, members[0], Options(recipe, dtype, fan, only, skip, names, device, frozen))
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    row_of = {id(held.tensor): row for row in plan.all_rows for held in row.held}
    _check(plan, {name: each for name, each in (parameters | buffers).items() if id(each) not in row_of})
    check_memory(len(members) * sum(row.num_bytes for row in plan.all_rows if row.device.type == "cpu"))
    stacks = _filled(plan, members)

    def stacked(tensor: Tensor) -> Tensor:
        row = row_of.get(id(tensor))
        stack = _copies(tensor, tensor.dtype, len(members)) if row is None else stacks[id(row)].detach()
        return stack.requires_grad_(tensor.requires_grad)

    return (
        {name: stacked(tensor) for name, tensor in parameters.items()},
        {name: stacked(tensor) for name, tensor in buffers.items()},
    )


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a sequence of ints, one for each member, not {seeds!r}")
    members = [checked_seed(each) for each in seeds]
    if not members:
        raise ValueError("seeds is empty; accepted is a sequence of ints, one for each member")
    return members


def _check(plan: Plan, others: Mapping[str, Tensor]) -> None:
    """Check that everything can be stacked: what is in the plan, and what stays as it is."""
    check_not_faked(plan.held())
    for name, tensor in (*((each.path, each.tensor) for each in plan.held()), *others.items()):
        if is_sharded(tensor):
            raise ValueError(
                f"{name!r} is a part of a larger tensor, as DTensors and other frameworks' shards are; "
                "accepted are whole tensors"
            )
    for name, tensor in others.items():
        if tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device and would stay there; choose it by only=")
        with naming(repr(name)):
            check_given(tensor, tensor)


def _filled(plan: Plan, seeds: Sequence[int]) -> dict[int, Tensor]:
    """Return the stack of each row by its id."""
    stacks: dict[int, Tensor] = {}
    for row in plan.all_rows:
        if row.values is None or row.rows is not None:
            stacks[id(row)] = _copies(row.tensor, row.dtype, len(seeds))
        else:
            shape = len(seeds), *row.tensor.shape
            stacks[id(row)] = torch.empty(shape, dtype=row.dtype, device=row.device)
    drawn = [row for row in plan.all_rows if isinstance(row.values, Drawn)]
    with torch.no_grad():
        fill_members(
            [
                (seed, [piece for row in drawn for piece in row.pieces_of(stacks[id(row)][member])])
                for member, seed in enumerate(seeds)
            ]
        )
        for row in plan.all_rows:
            for member, seed in enumerate(seeds) if not isinstance(row.values, Drawn | None) else ():
                row.write_(seed, stacks[id(row)][member])
    return stacks


def _copies(tensor: Tensor, dtype: torch.dtype, num: int) -> Tensor:
    one = tensor.detach().to(dtype)
    return one.expand(num, *one.shape).clone(memory_format=torch.contiguous_format)
