"""A study's storage as samplers, pruners and objectives see it, made of a process's own list of trials."""

from __future__ import annotations

import copy
import functools
import hashlib
import operator
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partialmethod
from typing import Any, NoReturn, cast

from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import HpoError


def known_as(trial: FrozenTrial) -> int:
    """64 bits that stand for a trial's number, state and values: what a sampler knew has a digest of all."""
    held = repr((trial.number, trial.state.name, trial.values)).encode()
    return int.from_bytes(hashlib.sha256(held).digest()[:8], "big")


def digest(marks: Iterable[int]) -> str:
    """Of what `known_as` made of finished trials, in whatever order: 16 hexadecimal digits."""
    return f"{functools.reduce(operator.xor, marks, 0):016x}"


class StudyView(BaseStorage):
    """One study, for reading; whoever may write overrides that one method."""

    def __init__(
        self,
        name: str,
        study_id: int,
        directions: Sequence[str],
        trials: Callable[[], list[FrozenTrial]],
        get: Callable[[int], FrozenTrial],
    ) -> None:
        """A view of the study.

        Args:
            name: of the study.
            study_id: Optuna's.
            directions: "minimize" or "maximize" for each value.
            trials: all trials now, by number; the list is new, and the trials never change.
            get: one of them by its id; raises KeyError.
        """
        self._name = name
        self._study_id = study_id
        self._directions = [StudyDirection[direction.upper()] for direction in directions]
        self._trials = trials
        self._get = get

    def __reduce__(self) -> str:
        raise TypeError(
            "a view of a study reads from the process it was made in and cannot be sent to another"
        )

    def refuse(self, what: str) -> NoReturn:
        """Say that `what` cannot be done here.

        Raises:
            HpoError
        """
        raise HpoError(f"study {self._name} is open for reading only: it is not possible to {what}")

    # Studies

    def get_study_id_from_name(self, study_name: str) -> int:
        """The study's id.

        Raises:
            KeyError: it has another name.
        """
        if study_name != self._name:
            raise KeyError(f"no study named {study_name}: this is a view of {self._name}")
        return self._study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        self._check(study_id)
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        self._check(study_id)
        return list(self._directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """None, unless a subclass knows some."""
        self._check(study_id)
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """None, unless a subclass knows some."""
        self._check(study_id)
        return {}

    def get_all_studies(self) -> list[FrozenStudy]:
        """This one."""
        study = FrozenStudy(
            self._name,
            None,
            self.get_study_user_attrs(self._study_id),
            self.get_study_system_attrs(self._study_id),
            self._study_id,
            directions=self._directions,
        )
        return [study]

    # Trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A copy of the trial.

        Raises:
            KeyError: there is none of this id.
        """
        return _copied(self._get(trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """A copy of them alone."""
        return copy.deepcopy(self._get(trial_id).system_attrs)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in these states, by number; copies if asked for."""
        self._check(study_id)
        found = self._trials()
        if states is not None:
            found = [trial for trial in found if trial.state in states]
        return [_copied(trial) for trial in found] if deepcopy else found

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of the trial of this number, which need not stand at this place of the list.

        Raises:
            KeyError: there is none.
        """
        for trial in self.get_all_trials(study_id, deepcopy=False):
            if trial.number == trial_number:
                return trial._trial_id
        raise KeyError(f"study {self._name} has no trial {trial_number}")

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        """How many trials are in this state, or in one of these."""
        states = (state,) if isinstance(state, TrialState) else state
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def _check(self, study_id: int) -> None:
        if study_id != self._study_id:
            raise KeyError(f"no study of id {study_id}: this is a view of {self._name}")

    # Writes

    def _refused(self, what: str, *_: Any, **__: Any) -> NoReturn:
        self.refuse(what)

    create_new_study: Any = partialmethod(_refused, "create a study")
    delete_study: Any = partialmethod(_refused, "delete a study")
    set_study_user_attr: Any = partialmethod(_refused, "set a study's user attribute")
    set_study_system_attr: Any = partialmethod(_refused, "set a study's system attribute")
    create_new_trial: Any = partialmethod(_refused, "create a trial")
    set_trial_param: Any = partialmethod(_refused, "set a trial's parameter")
    set_trial_state_values: Any = partialmethod(_refused, "end a trial")
    set_trial_intermediate_value: Any = partialmethod(_refused, "report a trial's value")
    set_trial_user_attr: Any = partialmethod(_refused, "set a trial's user attribute")
    set_trial_system_attr: Any = partialmethod(_refused, "set a trial's system attribute")


class Passing:
    """A storage that passes everything on, but for what a subclass says."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def through(study: Study, storage: BaseStorage | Passing) -> Study:
    """The study as it is seen through this storage, without its list of trials from last time.

    Samplers read that list, and only `Study.ask` renews it: without a fresh copy a sampler would
    see the trials of its first suggestion for ever.
    """
    view = copy.copy(study)  # Optuna's copies start without the list
    view._storage = cast(BaseStorage, storage)
    return view


def changed(trial: FrozenTrial, **fields: Any) -> FrozenTrial:
    """A copy of the trial with other fields, which shares the rest."""
    other = copy.copy(trial)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """A deep copy with the same distributions: nobody changes those, and they take most of the time."""
    distributions = trial.distributions
    return copy.deepcopy(trial, {id(distributions): dict(distributions)})
