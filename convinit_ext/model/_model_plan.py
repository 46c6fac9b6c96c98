"""ModelPlan: an initialisation that is planned once, and run again as long as the model is what it was."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext import keys
from convinit_ext._engine import SUPPORTED_DTYPES, is_plain, ops, uncompiled
from convinit_ext.keys import checked_seed
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._plan import Plan, Row, uncollected
from convinit_ext.model._report import Report
from convinit_ext.model._run import run
from convinit_ext.model._state import fingerprint_of, saved_tensors
from convinit_ext.model._values import Drawn, Piece, Same
from convinit_ext.sharding import check_foreign, is_marked, is_sharded

_LEAVES = ("_parameters", "_buffers")
_OF_MODULES = 3  # of the facts, which lead: the others are of planned tensors


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
    def _call(self) -> Callable[[int], None] | None:
        return _one_call(self._plan)

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
        seed = self._checked(seed)
        if self._call is not None and not progress:
            check_not_faked(self._plan.held())
            self._call(seed)
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
        seed = self._checked(seed)
        with torch.no_grad():
            return fingerprint_of(
                saved_tensors(self._model, dataclasses.replace(self._plan, seed=seed)), seed
            )

    def _remember(self) -> None:
        self._homes = _Homes(self._plan.modules, list(self._plan.held()))
        self.__dict__.pop("_call", None)  # made anew when it is asked for

    def _checked(self, seed: int | None) -> int:
        """Return the seed of a run, after a look at whether the model is what it was."""
        seed = self._plan.seed if seed is None else checked_seed(seed)
        changed = self._homes.changed()
        if changed:
            raise RuntimeError(
                f"{len(changed)} tensor{'s' * (len(changed) > 1)} of the model changed since it was planned, "
                f"{changed[0]!r} first: their place, shape, dtype or device; plan it again"
            )
        return seed

    def __str__(self) -> str:
        return str(self.report)


def _one_call(plan: Plan) -> Callable[[int], None] | None:
    """Return the one call that a plan comes down to where all it does is to fill tensors that have memory."""
    pieces: list[Piece] = []
    others: list[tuple[Tensor, float]] = []  # of dtypes that the engine does not know
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
    tensors, names = [piece.memory for piece in pieces], [piece.key for piece in pieces]
    kinds, params = ops.encoded([piece.distribution for piece in pieces])
    keys_of = lru_cache(maxsize=1)(lambda seed: keys.of_names(seed, names))

    def fill(seed: int) -> None:
        ops.fill_encoded_(tensors, keys_of(seed), kinds, params)
        with torch.no_grad():
            for tensor, value in others:
                tensor.fill_(value)

    return fill


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


class _Homes:
    """The places of a model's tensors, and what planned ones are; values may change.

    The model is seen anew at each question. A plan is run again within microseconds for each tensor, and so
    is this question.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> homes = _Homes(list(walk.modules(model)), [])
    >>> model[0] = nn.Linear(2, 2)
    >>> homes.changed()
    ['0.weight', '0.bias']
    """

    def __init__(self, nodes: Sequence[NamedModule], held: Sequence[NamedTensor]) -> None:
        self._nodes, self._held = nodes, held
        self._tensors = [each.tensor for each in held]
        self._holders = [getattr(node.module, leaves) for leaves in _LEAVES for node in nodes]
        # Views, which show what is there when they are looked at.
        self._leaves = [holder.keys() for holder in self._holders]
        self._children = [node.module._modules.values() for node in nodes]
        self._absent = [
            (at, leaf)
            for at, holder in enumerate(self._holders)
            for leaf, tensor in holder.items()
            if tensor is None
        ]
        self._places = [
            (module, _LEAVES[leaf not in module._parameters], leaf, each.path)
            for each in held
            for module, leaf in each.places
        ]
        self._facts = self._now()

    def changed(self) -> list[str]:
        """Return the paths of planned tensors that are no longer there, or of another shape, dtype or device.

        Where there are none, those of tensors that are in other modules, or that are new or gone.
        """
        now = self._now()
        if now == self._facts:
            return []
        planned = [*(path for *_, path in self._places), *([held.path for held in self._held] * 3)]
        facts = (itertools.chain.from_iterable(each[_OF_MODULES:]) for each in (now, self._facts))
        changed = [path for path, fact, before in zip(planned, *facts, strict=True) if fact != before]
        if not changed:
            new = _Homes(list(walk.modules(self._nodes[0].module)), self._held)
            before, after = self._modules(), new._modules()
            changed = [path for path in before | after if before.get(path) is not after.get(path)]
            if not changed:
                self.__dict__.update(new.__dict__)
        return list(dict.fromkeys(changed))

    def _modules(self) -> dict[str, nn.Module]:
        """Return the module of each path to a tensor, as they were."""
        absent, places = set(self._absent), zip(itertools.cycle(self._nodes), self._facts[0], strict=False)
        return {
            walk.join(node.path, leaf): node.module
            for at, (node, leaves) in enumerate(places)
            for leaf in leaves
            if (at, leaf) not in absent
        }

    def _now(self) -> tuple[list[Any], ...]:
        """Return what differs where a plan does not hold any more, and is quick to ask."""
        tensors = self._tensors
        return (
            [*map(tuple, self._leaves)],
            [*map(id, itertools.chain.from_iterable(self._children))],
            [self._holders[at].get(leaf) is None for at, leaf in self._absent],
            [  # no dicts in a ScriptModule: without get
                id(holder[leaf]) if leaf in (holder := getattr(module, kind)) else None
                for module, kind, leaf, _ in self._places
            ],
            [tensor.shape for tensor in tensors],
            [tensor.dtype for tensor in tensors],
            [tensor.device for tensor in tensors],
        )
