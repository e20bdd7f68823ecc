"""What pruners compare, kept up by what is new, so that a decision costs the same after 10,000 trials.

Optuna's pruners list all trials at each decision. The same decisions need only the values that complete
trials had at a step (median, percentile), or those that trials had at a rung, in order (successive halving,
hyperband). Rungs are rows of ours; trials of plain Optuna, and of older versions, have them as attributes.
"""

from __future__ import annotations

import copy
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
from optuna import Study
from optuna.pruners import BasePruner, PatientPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.pruners import _percentile as percentiles
from optuna.trial import FrozenTrial, TrialState

from hpo.search.diverged import is_diverged
from hpo.search.pruners import Hyperband, UpToMaxEpochs
from storage.queue.rungs import Rung

_RUNG = "completed_rung_"  # what successive halving notes with a trial at each rung

Newer = Callable[[int], tuple[int, Sequence[FrozenTrial]]]  # version -> the one now, and what came since


class Compared:
    """The values of one study's trials, by step and by rung.

    Args:
        newer: the study's trials that are newer than a version.
        maximize: whether the higher value is the better one.
        group: successive halving compares the trials of a group alone: a bracket's.
    """

    def __init__(
        self, newer: Newer, *, maximize: bool, group: Callable[[FrozenTrial], int] | None = None
    ) -> None:
        self.maximize = maximize
        self.complete = 0  # how many trials are
        self._newer = newer
        self.group = group or (lambda _trial: 0)
        self._version = 0
        self._at: dict[int, array[float]] = defaultdict(lambda: array("d"))  # by step
        self._rungs: dict[tuple[int, int], list[float]] = defaultdict(list)  # by group and rung, in order
        self._counted: dict[int, FrozenTrial] = {}  # those that count here, as they were, by id
        self._rows: dict[int, dict[int, Rung]] = {}  # of each trial, by rung
        self._noted: list[tuple[Rung, Rung | None]] = []  # by decisions since the last `learn`, and before

    def refresh(self) -> None:
        """Learn which trials are new, and which have changed."""
        self._version, changed = self._newer(self._version)
        for trial in changed:
            with self._moving(trial._trial_id):
                before = self._counted.pop(trial._trial_id, None)
                if before is not None:
                    self._count(before, gone=True)
                if self._count(trial):
                    self._counted[trial._trial_id] = trial

    def learn(self, rungs: Iterable[Rung]) -> None:
        """Learn which rungs are stored that were not, what was noted meanwhile among them."""
        for rung, before in reversed(self._noted):
            self._put(before or replace(rung, value=None))
        self._noted.clear()
        for rung in rungs:
            self._put(rung)

    def note(self, rung: Rung) -> None:
        """A trial has come to a rung, and this is about to be stored."""
        self._noted.append((rung, self._rows.get(rung.trial_id, {}).get(rung.rung)))
        self._put(rung)

    def noted(self, trial_id: int) -> list[Rung]:
        """The rungs that a trial has come to since the last `learn`."""
        return [rung for rung, _ in self._noted if rung.trial_id == trial_id]

    def has_reached(self, trial: FrozenTrial, rung: int) -> bool:
        """Whether the trial has come to this rung already."""
        return rung in self._rows.get(trial._trial_id, {}) or f"{_RUNG}{rung}" in trial.system_attrs

    def at_step(self, step: int) -> Sequence[float]:
        """The values that complete trials had at this step, in any order."""
        return self._at.get(step, ())

    def at_rung(self, group: int, rung: int) -> Sequence[float]:
        """The values that trials of the group had at this rung, the lowest first."""
        return self._rungs.get((group, rung), ())

    def _put(self, rung: Rung) -> None:
        with self._moving(rung.trial_id):
            rows = self._rows.setdefault(rung.trial_id, {})
            if rung.value is None:
                rows.pop(rung.rung, None)
            else:
                rows[rung.rung] = rung

    @contextmanager
    def _moving(self, trial_id: int) -> Iterator[None]:
        """What is known of the trial changes inside, and with it what it has at its rungs."""
        for rung, value in self._rungs_of(trial_id):
            held = self._rungs[rung]
            del held[bisect_left(held, value)]
        yield
        for rung, value in self._rungs_of(trial_id):
            insort(self._rungs[rung], value)

    def _count(self, trial: FrozenTrial, *, gone: bool = False) -> bool:
        """Take its values in, or out; whether it counts."""
        marked = any(key.startswith(_RUNG) for key in trial.system_attrs)
        if trial.state is not TrialState.COMPLETE:
            return marked or is_diverged(trial)
        self.complete += -1 if gone else 1
        for step, value in trial.intermediate_values.items():
            if gone:
                self._forget(self._at[step], value)
            else:
                self._at[step].append(value)
        return True

    @staticmethod
    def _forget(held: array[float], value: float) -> None:
        if math.isnan(value):
            del held[next(i for i, one in enumerate(held) if math.isnan(one))]
        else:
            held.remove(value)

    def _rungs_of(self, trial_id: int) -> list[tuple[tuple[int, int], float]]:
        """What it has by group and rung.

        One that diverged has the worst value at the rungs it reached, and at the next, which it would have
        come to.
        """
        rows, trial = self._rows.get(trial_id, {}), self._counted.get(trial_id)
        found = {number: cast(float, row.value) for number, row in rows.items()}
        if trial is not None:
            marks = trial.system_attrs.items()
            found = {
                int(key.removeprefix(_RUNG)): float(value) for key, value in marks if key.startswith(_RUNG)
            } | found
            if is_diverged(trial):
                worst = -math.inf if self.maximize else math.inf
                found = dict.fromkeys(range(len(found) + 1), worst) if trial.params else {}
        if not found:
            return []
        group = next(iter(rows.values())).bracket if rows else self.group(cast(FrozenTrial, trial))
        return [((group, rung), value) for rung, value in found.items()]


def comparing(pruner: BasePruner, compared: Compared) -> BasePruner:
    """A pruner that decides as this one (of `make_pruner`) does, by what is compared."""
    match pruner:
        case PercentilePruner():
            return _Percentile(pruner, compared)
        case SuccessiveHalvingPruner():
            return _Halving(pruner, compared)
        case Hyperband():
            return _Hyperband(pruner, compared)
        case UpToMaxEpochs():
            return UpToMaxEpochs(comparing(pruner.pruner, compared), pruner.max_epochs)
        case PatientPruner() if pruner._wrapped_pruner is not None:
            patient = copy.copy(pruner)
            patient._wrapped_pruner = comparing(pruner._wrapped_pruner, compared)
            return patient
    return pruner


class _Percentile(BasePruner):
    def __init__(self, pruner: PercentilePruner, compared: Compared) -> None:
        self._like = pruner
        self._compared = compared

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """As `PercentilePruner.prune`, of which the median is one."""
        like, compared = self._like, self._compared
        step = trial.last_step
        if step is None or step < like._n_warmup_steps:
            return False
        compared.refresh()
        if compared.complete == 0 or compared.complete < like._n_startup_trials:
            return False
        reported = trial.intermediate_values.keys()
        if not percentiles._is_first_in_interval_step(
            step, reported, like._n_warmup_steps, like._interval_steps
        ):
            return False
        best = percentiles._get_best_intermediate_result_over_steps(trial, study.direction)
        if math.isnan(best):
            return True
        others = compared.at_step(step)
        if len(others) < like._n_min_trials:
            return False
        share = 100 - like._percentile if compared.maximize else like._percentile
        limit = float(np.nanpercentile(np.array(others, dtype=float), share))
        if math.isnan(limit):
            return False
        return best < limit if compared.maximize else best > limit


class _Halving(BasePruner):
    def __init__(self, pruner: SuccessiveHalvingPruner, compared: Compared) -> None:
        self._like = pruner
        self._compared = compared

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """As `SuccessiveHalvingPruner.prune`: whether a trial is among the best at each rung it reaches."""
        like, step = self._like, trial.last_step
        if step is None:
            return False
        value = trial.intermediate_values[step]
        rung, compared = 0, self._compared
        while compared.has_reached(trial, rung):
            rung += 1
        assert like._min_resource is not None  # a spec says it
        while step >= like._min_resource * like._reduction_factor ** (like._min_early_stopping_rate + rung):
            if math.isnan(value):
                return True
            compared.refresh()
            group = compared.group(trial)
            others = compared.at_rung(group, rung)
            goes_on = len(others) >= like._bootstrap_count and self._goes_on(value, others)
            compared.note(Rung(trial._trial_id, rung, group, step, value))
            if not goes_on:
                return True
            rung += 1
        return False

    def _goes_on(self, value: float, others: Sequence[float]) -> bool:
        may = max((len(others) + 1) // self._like._reduction_factor - 1, 0)  # so many may be better
        if self._compared.maximize:
            return len(others) - bisect_right(others, value) <= may
        return bisect_left(others, value) <= may


class _Hyperband(BasePruner):
    def __init__(self, pruner: Hyperband, compared: Compared) -> None:
        self._like = pruner
        self._halvings = [_Halving(one, compared) for one in pruner._pruners]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """As `Hyperband.prune`: successive halving within the trial's own bracket."""
        if self._like.is_last(trial):
            return False
        return self._halvings[self._like.bracket(study, trial)].prune(study, trial)
