"""init_model_ and plan_model: a whole model filled by one call, every parameter by its own name."""

from __future__ import annotations

import time

import torch
from torch import nn

from convinit_ext._engine import check_flags, uncompiled
from convinit_ext.model._model_plan import ModelPlan
from convinit_ext.model._names import Names
from convinit_ext.model._options import AnyRecipe, Frozen, Options, checked_on_all_ranks
from convinit_ext.model._planner import make_plan
from convinit_ext.model._report import Report
from convinit_ext.model._run import run
from convinit_ext.model._selection import Selectors
from convinit_ext.recipes import Fan


@uncompiled
def init_model_(
    model: nn.Module,
    seed: int = 0,
    recipe: AnyRecipe = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    fan: Fan = "true",
    check_ranks: bool = False,
    *,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    frozen: Frozen = None,
    like: nn.Module | None = None,
    dry_run: bool = False,
) -> Report:
    """Fill every parameter of a model in place; its values depend on the seed and the parameter's name alone.

    Parameters on the meta device get memory, which the filling threads touch first. Tied parameters are
    filled once, under the first name that named_parameters() gives, and stay tied. BatchNorm's running
    statistics start anew, and so do buffers that no state dict has, where their module can make them. A
    module of a type derived from one of torch.nn counts as that one.

    Args:
        model: any module; DDP, torch.compile, FSDP and checkpoint wrappers do not change a name.
        seed: in [-2**63, 2**64).
        recipe: "torch" (every module as its reset_parameters does), "he", "xavier", "lecun", "trunc_normal",
            "gpt", "llama", "mamba", "deepnorm", the path of a .toml or .json file, a Recipe, or a list of
            rules.
        device: where meta parameters and buffers go, such as "cuda"; None is the CPU, and for DTensors their
            mesh's kind of device.
        dtype: of all floating-point parameters and buffers afterwards, but for rotary frequencies and what
            transformers keeps in float32 in half precision; None leaves each its own.
        progress: show a tqdm bar that counts bytes.
        fan: "true", or "torch" for PyTorch's own fans of transposed and grouped convolutions (which recipe
            "torch" always has).
        check_ranks: compare the seed, recipe, fan, dtype and names with those of all other processes first;
            all of them must ask for it.
        only: what to initialise, the rest is left as it is: globs on names of parameters, buffers or modules,
            regular expressions, modules, module types; one of them or a list. Every name of a tied parameter
            counts. Or a dict of them to rows of parameters, a slice or a list of numbers, as in
            {"embed.weight": slice(32000, None)}: these rows get the values that they have in the whole.
        skip: what to leave as it is, likewise; it wins over only.
        names: the names that make the keys, instead of the model's: a dict of names or prefixes, or a
            function of a name.
        frozen: what becomes of parameters that are frozen (requires_grad=False), beside others that are not,
            and that no rule of your own names: "keep" leaves them as they are, "draw" initialises them like
            others. None is an error that lists them, but for what the model's own code computes, and on the
            meta device for what a constructor of transformers' or diffusers' kind freezes by itself.
        like: a model, best on the meta device, whose module types count in place of this one's, by the names
            of parameters: for stages of torch.distributed.pipelining's tracer, which have lost theirs.
        dry_run: change and allocate nothing; the report says what would be done.

    Returns:
        A Report: what each parameter got, and how long it took; on a GPU, until all work was queued.

    Raises:
        ValueError: parameters that no rule covers, frozen ones without frozen=, lazy ones, equal names,
            shared memory, meta buffers and attributes that nobody can rebuild (all of them named); copies in
            a cycle, of unknown parameters or of another shape; a constant or bounds that a dtype cannot hold;
            parameters that another framework holds, gathers or offloads; a pattern that chooses nothing; a
            seed out of range, or (check_ranks) another one, or another recipe, fan, dtype or names, on
            another rank; an unknown recipe, fan or dtype.
        UnsupportedTensorError: a parameter of a dtype, layout or device that cannot be filled.
        MemoryError: less memory available than the new tensors need.
        torch.cuda.OutOfMemoryError: the same on a GPU.
        TypeError: an argument of another type.
        After an error the model is as it was.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    >>> report = init_model_(model, seed=7)
    >>> report.num_elements, report.rows[0].initialiser
    (44, 'kaiming_uniform_(a=2.23607)')
    >>> [row.name for row in init_model_(model, seed=8, only="1").rows]
    ['1.weight', '1.bias']
    """
    started = time.perf_counter()
    check_flags(check_ranks=check_ranks, dry_run=dry_run)

    def options() -> Options:
        return Options(recipe, dtype, fan, only, skip, names, device, frozen, like)

    plan = make_plan(model, seed, checked_on_all_ranks(seed, options) if check_ranks else options())
    if not dry_run:
        run(plan, plan.seed, progress)
    return plan.report(time.perf_counter() - started, dry_run)


@uncompiled
def plan_model(
    model: nn.Module,
    seed: int = 0,
    recipe: AnyRecipe = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    frozen: Frozen = None,
    like: nn.Module | None = None,
) -> ModelPlan:
    """Plan an initialisation that can be run, and run again, without planning anew.

    The arguments and errors are those of init_model_. Nothing is changed or allocated before `run()`.

    >>> model = nn.Linear(8, 4)
    >>> plan = plan_model(model, seed=7)
    >>> first, second = plan.run(), plan.run(seed=8)
    >>> first.seed, second.seed
    (7, 8)
    """
    return ModelPlan(
        model, make_plan(model, seed, Options(recipe, dtype, fan, only, skip, names, device, frozen, like))
    )
