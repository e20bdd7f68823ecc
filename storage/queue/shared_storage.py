"""Optuna's storage as a runner sees it: every write fenced, every call patient with the database."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, get_storage
from optuna.storages._cached_storage import _StudyInfo
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.queue.fence import Fence

T = TypeVar("T")


class SharedStorage(BaseStorage):
    """Delegates to Optuna's cached storage; writes are proven, and tried again when the database went away.

    All writes that come through here may be repeated safely: Optuna upserts attributes and reports,
    and a parameter that is there already is left alone. `trial_id` is the one trial that may be
    written, so that a thread left over from an earlier trial cannot write under the next one's lease.
    """

    def __init__(self, database: Database, fence: Fence) -> None:
        self._database = database
        self._fence = fence
        self._inner: Any = get_storage(database.rdb)
        self.trial_id: int | None = None

    def work_on(self, optuna_study_id: int, trial_id: int, number: int) -> None:
        """From now on this trial, and no other, may be written. Optuna's cache learns of it."""
        frozen = create_trial(state=TrialState.RUNNING)
        frozen.number, frozen._trial_id = number, trial_id
        inner = self._inner
        with inner._lock:
            known = inner._studies.setdefault(optuna_study_id, _StudyInfo())
            known.unfinished_trial_ids.add(trial_id)
            inner._add_trials_to_cache(optuna_study_id, [frozen])
        self.trial_id = trial_id

    def __reduce__(self) -> str:
        raise TypeError("a trial's storage holds its lease and cannot be sent to another process")

    def _patiently(self, call: Callable[[], T]) -> T:
        return self._database.patience(self._database.url, call)

    def _write(self, call: Callable[[], T], trial_id: int | None = None) -> T:
        if trial_id is not None and trial_id != self.trial_id:
            raise LeaseLostError("this trial is not the one this process runs now")

        def once() -> T:
            with self._fence.transaction():
                return call()

        return self._patiently(once)

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        raise LeaseLostError("a trial may not create studies in the database it is recorded in")

    def delete_study(self, study_id: int) -> None:
        raise LeaseLostError("a trial may not delete studies")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._patiently(lambda: int(self._inner.get_study_id_from_name(study_name)))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._patiently(lambda: str(self._inner.get_study_name_from_id(study_id)))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._patiently(lambda: list(self._inner.get_study_directions(study_id)))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: dict(self._inner.get_study_user_attrs(study_id)))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: dict(self._inner.get_study_system_attrs(study_id)))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._patiently(lambda: list(self._inner.get_all_studies()))

    # Trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._write(lambda: int(self._inner.create_new_trial(study_id, template_trial)))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._write(
            lambda: self._inner.set_trial_param(trial_id, param_name, param_value_internal, distribution),
            trial_id,
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        return self._write(
            lambda: bool(self._inner.set_trial_state_values(trial_id, state, values)), trial_id
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._write(
            lambda: self._inner.set_trial_intermediate_value(trial_id, step, intermediate_value), trial_id
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_trial_user_attr(trial_id, key, value), trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_trial_system_attr(trial_id, key, value), trial_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._frozen(self._inner.get_trial(trial_id)))

    @staticmethod
    def _frozen(trial: Any) -> FrozenTrial:
        assert isinstance(trial, FrozenTrial)
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._patiently(lambda: list(self._inner.get_all_trials(study_id, deepcopy, states)))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._patiently(
            lambda: int(self._inner.get_trial_id_from_study_id_trial_number(study_id, trial_number))
        )

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._frozen(self._inner.get_best_trial(study_id)))

    def remove_session(self) -> None:
        self._inner.remove_session()
