"""What another study observed, shown to a sampler as finished trials that this study does not have."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.space import distribution
from hpo.search.view import Passing, changed
from hpo.spec import StudySpec
from storage.queue.optuna_rows import DIVERGED

LEARNING = ("tpe", "rungs", "gp")  # take what they are shown; others count generations of their own
MAX_PRIOR = 1000  # observations; each suggestion costs time with their number


def prior_trials(spec: StudySpec, stored: Mapping[str, Any] | None) -> tuple[FrozenTrial, ...]:
    """The observations stored with a study, oldest first, as trials numbered from 0.

    They are complete, or diverged where they have no values.

    Their ids are below -1, so that none is taken for a trial of the study, nor for one that asks
    without being stored.
    """
    if stored is None or spec.sampler.name not in LEARNING:
        return ()
    found = stored["trials"]
    distributions = {name: distribution(parameter) for name, parameter in spec.space.items()}
    trials = []
    for index, observed in enumerate(found):
        params = observed["params"]
        values = observed["values"]
        trial = create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            params=params,
            distributions={name: distributions[name] for name in params},
            values=values,
            system_attrs={DIVERGED: True} if values is None else None,
            constraints=observed.get("constraints"),
        )
        trial.number, trial._trial_id = index, index - len(found) - 1
        trials.append(trial)
    return tuple(trials)


class WithPrior(Passing):
    """A storage that lists further finished trials, before those it has.

    The study's own trials are numbered after them (`shifted`): samplers sort by number, and Optuna's
    search for the common space skips numbers below -1.
    """

    def __init__(self, storage: BaseStorage, prior: Sequence[FrozenTrial]) -> None:
        super().__init__(storage)
        self._prior = prior

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The prior's trials, then the study's."""
        wanted = [trial for trial in self._prior if states is None or trial.state in states]
        own = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [*wanted, *(shifted(trial, self._prior) for trial in own)]


def shifted(trial: FrozenTrial, prior: Sequence[FrozenTrial]) -> FrozenTrial:
    """A copy of one of the study's trials, numbered as if `prior` came before it."""
    return changed(trial, number=trial.number + len(prior))
