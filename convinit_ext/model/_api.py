"""init_model_ and plan_model: a whole model filled by one call, every parameter by its own name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from convinit_ext import keys
from convinit_ext._engine import SUPPORTED_DTYPES, check_flags, is_plain, ops, uncompiled
from convinit_ext.keys import checked_seed
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._homes import Homes
from convinit_ext.model._names import Names
from convinit_ext.model._options import AnyRecipe, Frozen, Options, checked_on_all_ranks
from convinit_ext.model._plan import Plan, Row, uncollected
from convinit_ext.model._planner import make_plan
from convinit_ext.model._report import Report
from convinit_ext.model._run import run
from convinit_ext.model._selection import Selectors
from convinit_ext.model._state import fingerprint_of, saved_tensors
from convinit_ext.model._values import Drawn, Piece, Same
from convinit_ext.recipes import Fan
from convinit_ext.sharding import check_foreign, is_marked, is_sharded


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


class ModelPlan:
    """What init_model_ would do to one model: `print(plan)` shows it, `plan.run()` does it."""

    @uncollected()
    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._remember()

    @cached_property
    def report(self) -> Report:
        """What each parameter gets."""
        return self._plan.report(0.0, dry=True)

    @cached_property
    @uncollected()
    def _call(self) -> _OneCall | None:
        return _OneCall.of(self._plan)

    @uncompiled
    def run(self, seed: int | None = None, progress: bool = False) -> Report:
        """Fill the planned parameters, and start the planned buffers anew. May be called again and again.

        Args:
            seed: another than the plan's, for this run.
            progress: show a tqdm bar that counts bytes.

        Raises:
            RuntimeError: the model has other tensors than when it was planned or last run.
            ValueError, TypeError: a seed as init_model_ refuses it.
            MemoryError: less memory available than the new tensors need.
        """
        started = time.perf_counter()
        seed = self._plan.seed if seed is None else checked_seed(seed)
        self._check_unchanged()
        if self._call is not None and not progress:
            check_not_faked(self._plan.held())
            self._call.fill(seed)
        else:
            for held in self._plan.held():
                if is_marked(held.tensor):
                    check_foreign(held.tensor, writing=True)
            run(self._plan, seed, progress)
            self._remember()
        seconds = time.perf_counter() - started
        return dataclasses.replace(self.report, seconds=seconds, seed=seed, dry=False)

    @uncompiled
    def fingerprint(self, seed: int | None = None) -> str:
        """What convinit_ext.fingerprint(model) is after a run: generated block by block; nothing is changed.

        A model on the meta device stays there. Where DTensors are sharded, each process generates all of it,
        without communication.

        Args:
            seed: another than the plan's.

        Raises:
            RuntimeError: as run() refuses the model.
            ValueError, TypeError: a seed as init_model_ refuses it; tensors that nothing fills, or of a kind
                that no file holds.

        >>> from convinit_ext import fingerprint, plan_model
        >>> model = nn.Linear(8, 4)
        >>> plan = plan_model(model, seed=7)
        >>> report = plan.run()
        >>> plan.fingerprint() == fingerprint(model)
        True
        """
        seed = self._plan.seed if seed is None else checked_seed(seed)
        self._check_unchanged()
        with torch.no_grad():
            return fingerprint_of(
                saved_tensors(self._model, dataclasses.replace(self._plan, seed=seed)), seed
            )

    def _remember(self) -> None:
        self._homes = Homes(self._plan.modules, list(self._plan.held()))
        self.__dict__.pop("_call", None)  # made anew when it is asked for

    def _check_unchanged(self) -> None:
        changed = self._homes.changed()
        if changed:
            raise RuntimeError(
                f"{len(changed)} tensor{'s' * (len(changed) > 1)} of the model changed since it was planned, "
                f"{changed[0]!r} first: their place, shape, dtype or device; plan it again"
            )

    def __str__(self) -> str:
        return str(self.report)


class _OneCall:
    """The one call that a plan comes down to where all it does is to fill tensors that have memory.

    `others` are tensors of dtypes that the engine does not know, each with the value that it starts from.
    """

    def __init__(self, pieces: Sequence[Piece], others: Sequence[tuple[Tensor, float]]) -> None:
        self._tensors = [piece.memory for piece in pieces]
        self._names = [piece.key for piece in pieces]
        self._kinds, self._params = ops.encoded([piece.distribution for piece in pieces])
        self._others = others
        self._seed: int | None = None

    @staticmethod
    def of(plan: Plan) -> _OneCall | None:
        pieces: list[Piece] = []
        others = []
        for row in plan.rows:
            piece = _one_piece(row)
            if piece is None:
                return None
            pieces.append(piece)
        for row in plan.buffers:
            if not isinstance(row.values, Same) or row.is_fresh or not is_plain(row.tensor, any_dtype=True):
                return None
            if row.dtype in SUPPORTED_DTYPES:
                pieces += row.pieces_of(row.tensor)
            else:
                others.append((row.tensor, row.values.value))
        return _OneCall(pieces, others)

    def fill(self, seed: int) -> None:
        if seed != self._seed:
            self._keys, self._seed = keys.of_names(seed, self._names), seed
        ops.fill_encoded_(self._tensors, self._keys, self._kinds, self._params)
        with torch.no_grad():
            for tensor, value in self._others:
                tensor.fill_(value)


def _one_piece(row: Row) -> Piece | None:
    """Return the one fill, of the whole of a parameter where it is, that is all there is to do; or None."""
    values, first = row.values, row.held[0]
    if not isinstance(values, Drawn) or values.zero_row is not None or row.rows is not None:
        return None
    if len(row.held) > 1 and any(held.is_apart for held in row.held):
        return None
    is_plain = first.is_plain and first.tensor.dtype == row.dtype
    if not is_plain and (row.is_fresh or is_sharded(first.tensor)):
        return None
    return Piece(values.key, first.tensor, values.distribution, None)
