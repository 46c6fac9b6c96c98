"""A plan of one model that can be run, and run again, without planning anew."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import nn

from convinit_ext import keys
from convinit_ext._engine import ops, uncompiled
from convinit_ext.keys import checked_seed
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._places import Places
from convinit_ext.model._plan import Plan, Row
from convinit_ext.model._report import Report
from convinit_ext.model._run import run
from convinit_ext.model._state import entries, fingerprint_of
from convinit_ext.sharding import is_dtensor


class ModelPlan:
    """What init_model_ would do to one model: `print(plan)` shows it, `plan.run()` does it.

    Attributes:
        report: what each parameter gets.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._remember()
        self.report = plan.report(0.0, dry=True)

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
        if self._whole is not None and not progress:
            check_not_faked(self._plan.held())
            self._whole.fill(seed)
        else:
            run(self._plan, seed, progress)
            self._remember()
        seconds = time.perf_counter() - started
        return Report(self.report.rows, seconds, seed, self._plan.recipe)

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
            return fingerprint_of(entries(self._model, dataclasses.replace(self._plan, seed=seed)))

    def _remember(self) -> None:
        plan = self._plan
        self._places = Places(list(plan.held()))
        self._whole = None if plan.buffers else _Whole.of(plan.rows)

    def _check_unchanged(self) -> None:
        changed = self._places.changed()
        if changed:
            raise RuntimeError(
                f"{len(changed)} tensor{'s' * (len(changed) > 1)} of the model changed since it was planned, "
                f"{changed[0]!r} first: their place, shape, dtype or device; plan it again"
            )

    def __str__(self) -> str:
        return str(self.report)


class _Whole:
    """The one call that a plan comes down to where all it does is to fill parameters that have memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._tensors = [row.tensor for row in rows]
        self._names = [row.key for row in rows]
        self._kinds, self._params = ops.encoded([row.distribution for row in rows])
        self._seed: int | None = None

    @staticmethod
    def of(rows: Sequence[Row]) -> _Whole | None:
        if any(
            row.fresh or row.derived or row.zero_row is not None or is_dtensor(row.tensor) for row in rows
        ):
            return None
        return _Whole(rows)

    def fill(self, seed: int) -> None:
        if seed != self._seed:
            self._keys, self._seed = keys.of_names(seed, self._names), seed
        ops.fill_encoded_(self._tensors, self._keys, self._kinds, self._params)
