"""What a GP is shown of constraints: the same ones of every complete trial, in one order.

It makes a column of each, in the order a trial has them, and refuses trials that have not the same number. A
trial without one counts as feasible, so it is shown on the border.
"""

from __future__ import annotations

from collections.abc import Container

from optuna.trial import FrozenTrial, TrialState

from hpo.search.view import Passing, changed
from storage.database.records import CONSTRAINT


class SameConstraints(Passing):
    """A storage whose complete trials all have the same constraints."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, by number."""
        found = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        names = sorted({name for t in found if t.state is TrialState.COMPLETE for name in t.constraints})
        if not names:
            return found
        return [_with(trial, names) if trial.state is TrialState.COMPLETE else trial for trial in found]


def _with(trial: FrozenTrial, names: list[str]) -> FrozenTrial:
    others = {
        key: value
        for key, value in trial.system_attrs.items()
        if not (key.startswith(CONSTRAINT) or key == CONSTRAINT.removesuffix(":"))
    }
    has = trial.constraints
    same = {CONSTRAINT + name: has.get(name, 0.0) for name in names}
    return changed(trial, system_attrs=others | same)
