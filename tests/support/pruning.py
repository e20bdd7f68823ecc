"""How Optuna's own pruners are to see a study with diverged trials: what ours are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.diverged import _Seen
from hpo.search.view import changed, through

RUNG = "completed_rung_"  # what Optuna's successive halving notes at each rung


def for_pruner(study: Study) -> Study:
    """The study in which a diverged trial has the worst value at the rungs it reached, and at the next."""
    worst = math.inf if study.directions[0] is StudyDirection.MINIMIZE else -math.inf

    def as_last(diverged: Sequence[FrozenTrial], _others: Sequence[FrozenTrial]) -> Iterable[FrozenTrial]:
        for trial in diverged:
            reached = sum(key.startswith(RUNG) for key in trial.system_attrs)
            rungs = {f"{RUNG}{rung}": worst for rung in range(reached + 1)}  # the next would have come
            yield changed(trial, system_attrs={**trial.system_attrs, **rungs})

    return through(study, _Seen(study._storage, as_last, instead_of=TrialState.FAIL))
