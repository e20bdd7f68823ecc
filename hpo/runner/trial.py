"""The trial an objective is handed: an `optuna.Trial` with a few more members."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    _get_single_value,
    check_distribution_compatibility,
)

from hpo.runner import messages
from hpo.runner.checkpoint import CheckpointStore
from hpo.runner.interrupt import StopFlag
from hpo.runner.link import Voice
from hpo.runner.study import PipeStorage, PipeStudy, json_of
from storage.database.records import CONSTRAINT
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore, check_name, digest


class RunningTrial(optuna.Trial):
    """One attempt at a trial.

    Beside Optuna's members: `config`, `device`, `seed`, `attempt`, `checkpoint`, `log`, `artifact`,
    `check`. Reports go out together with the metrics logged since; a step reported again overwrites
    (Optuna keeps the old value silently).
    """

    def __init__(
        self,
        task: messages.Task,
        beginning: messages.Beginning,
        *,
        served: messages.Served,
        device: str,
        link: Voice,
        stop: StopFlag,
        checkpoint: CheckpointStore,
        store: ArtifactStore,
        in_lane: bool = False,
        ranks: AbstractContextManager[Any] | None = None,
    ) -> None:
        # Optuna's own constructor would read the trial again and call the sampler.
        trial = copy.copy(beginning.trial)
        self._trial_id = trial._trial_id
        self._cached_frozen_trial = trial
        self.storage = PipeStorage(link, served.study, served.directions, trial, served.attribute)
        self.relative_search_space: dict[str, BaseDistribution] | None = {}
        self._relative_params: dict[str, Any] | None = {}
        self._fixed_params = dict(beginning.point)
        self._declared = frozenset(served.space)
        self.config = dict(beginning.config)
        self.device = device
        self.seed = task.seed
        self.attempt = task.attempt
        self.checkpoint = checkpoint
        self.ranks = ranks  # entered by `objectives.ranks.joined`; None: this process trains it alone
        self._link = link
        self._stop = stop
        self._store = store
        self._served = served
        self._logged: dict[int, dict[str, float]] = {}
        self._metrics: dict[int, dict[str, float]] = {}  # all that were sent
        self._files_kept = 0
        self._asks_ahead = in_lane and served.prunes
        self._asked: int | None = None  # the number of that question
        reports = trial.intermediate_values
        self._last_step: int | None = max(reports) if reports else None
        self._at_nan = self._last_step is not None and math.isnan(reports[self._last_step])
        self._named_at_last: set[str] = set()  # metrics the last reported step has
        self._for_next: dict[str, float] = {}  # metrics of the step that will be reported next

    @cached_property
    def study(self) -> optuna.Study:  # type: ignore[override]
        """The study, to read."""
        assert isinstance(self.storage, PipeStorage)
        return PipeStudy(self._link, self.storage, self._served.study)

    def __reduce__(self) -> str:
        raise TypeError("a running trial belongs to its process and cannot be sent to another")

    def report(self, value: float | Sequence[float], step: int) -> None:
        """Report the objective's value after `step` (>= 0); what pruners and charts read.

        In a study of several directions `value` is a list with one for each, as the objective returns them.

        Raises:
            Interrupted: the trial must stop.
            NotImplementedError: the study has several directions, and this is one value.
        """
        self._stop.before_report()
        number: float | None = None
        if (count := len(self._served.directions)) == 1:
            number, at = _report_numbers(value, step)
            self._cached_frozen_trial.intermediate_values[at] = number
            self._at_nan = math.isnan(number)
        elif len(values := list(value) if hasattr(value, "__iter__") else []) == count:
            numbers = [_report_numbers(one, step)[0] for one in values]
            at = int(step)
            self._for_next = messages.of_directions(numbers) | self._for_next
            self._at_nan = any(map(math.isnan, numbers))
        else:
            raise NotImplementedError(
                f"with {count} directions report takes {count} numbers, trial.report([..., ...], step); one"
                " alone it does not take, as in Optuna"
            )
        self._flush_log()
        self._link.post(messages.Step, at, number, self._for_next)
        self._metrics.setdefault(at, {}).update(self._for_next)
        self._last_step, self._named_at_last = at, set(self._for_next)
        self._for_next = {}
        if self._asks_ahead:  # the answers of all lanes come together
            self._asked = self._link.question(messages.ShouldPrune)
        self._stop.after_report()

    def should_prune(self) -> bool:
        """Whether the pruner finds this trial not worth finishing.

        Raises:
            Interrupted: the trial must stop.
            NotImplementedError: the study has several directions, and nothing was reported.
        """
        self._stop.end_of_epoch()
        if len(self._served.directions) > 1 and self._last_step is None:
            raise NotImplementedError(
                "should_prune of several directions needs trial.report([..., ...], step) before it"
            )
        if not self._served.prunes:
            self._link.check()
            return False
        asked, self._asked = self._asked, None
        return bool(self._link.ask(messages.ShouldPrune) if asked is None else self._link.answer(asked))

    def check(self) -> None:
        """Call between batches.

        Raises:
            Interrupted: the trial must stop at once.
        """
        self._stop.between_batches()

    def log(self, step: int | None = None, **metrics: float) -> None:
        """Record named metrics of `step`; they go out with the next report.

        Without a step they belong to the last reported one, or, where that has such a metric already
        or nothing was reported yet, to the next: logging before or after `report` both do.
        """
        for name, value in metrics.items():
            if step is not None:
                self._logged.setdefault(int(step), {})[name] = float(value)
            elif self._last_step is not None and name not in self._named_at_last:
                self._logged.setdefault(self._last_step, {})[name] = float(value)
                self._named_at_last.add(name)
            else:
                self._for_next[name] = float(value)
        if len(self._served.directions) > 1:  # no report will come to carry them
            at = int(step) if step is not None else 0
            self._logged.setdefault(at, {}).update(self._for_next)
            self._for_next = {}
            self._flush_log()

    def artifact(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Keep the file at `path` with the trial, under `name` (default: its own).

        Content that the study has already is not stored again.

        Raises:
            ArtifactError: the name is not allowed, or the store cannot be written.
            FileNotFoundError: there is no such file.
        """
        kept = check_name(name or Path(path).name)
        content = Path(path).read_bytes()
        sha256, size = digest(content), len(content)
        if self._link.ask(messages.FileStored, kept, sha256, size):
            return
        self._files_kept += 1
        key = checkpoints.object_key(self._served.folder, sha256, self.number, self.attempt, self._files_kept)
        self._store.put(key, content)
        self._link.ask(messages.FileKept, kept, key, sha256, size)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Record a JSON value with the trial; NumPy's and torch's numbers and arrays become such.

        Raises:
            ValueError: it is larger than `limits.attribute` of the study file.
            Interrupted: the trial must stop.
        """
        self.storage.set_trial_user_attr(self._trial_id, key, value)

    def set_constraint(self, key: str, value: float) -> None:
        """Set a constraint's value: the trial is feasible when all of them are at most 0.

        One set again is overwritten (Optuna keeps the old value). They are written with the result, so that
        those of an attempt that was lost never count.

        Raises:
            TypeError: `value` is no number.
            ValueError: it is NaN.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"constraint {key} needs a number, got {type(value).__name__}") from None
        if math.isnan(number):
            raise ValueError(f"constraint {key} is NaN, which neither keeps nor breaks it")
        trial = self._cached_frozen_trial
        trial.system_attrs = {**trial.system_attrs, CONSTRAINT + key: number}

    def take_unsent(self) -> dict[int, dict[str, float]]:
        """What was logged after the last report, by step; it goes out with the result."""
        if self._for_next:
            self._logged.setdefault(self._last_step or 0, {}).update(self._for_next)
        unsent, self._logged, self._for_next = self._logged, {}, {}
        return unsent

    @property
    def reports(self) -> dict[int, float]:
        """Every value reported, by step."""
        return dict(self._cached_frozen_trial.intermediate_values)

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """Every metric sent by this attempt, by step."""
        return self._metrics

    @property
    def last_report(self) -> tuple[float, ...] | None:
        """A pruned trial's value is its last report, as in Optuna; None when there is none."""
        reports = self._cached_frozen_trial.intermediate_values
        return (reports[max(reports)],) if reports else None

    @property
    def is_at_nan(self) -> bool:
        """Whether the last report is NaN, or a value of it."""
        return self._at_nan

    def _flush_log(self) -> None:
        for step in sorted(self._logged):
            self._link.post(messages.Step, step, None, self._logged[step])
            self._metrics.setdefault(step, {}).update(self._logged[step])
        self._logged.clear()

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """A declared parameter's value whatever range is asked for here; others as in Optuna."""
        if name in self._declared:
            return self.config[name]
        trial = self._cached_frozen_trial
        if name in trial.distributions:
            check_distribution_compatibility(trial.distributions[name], distribution)
            return trial.params[name]
        value = self._new_value(name, distribution)
        trial.params = {**trial.params, name: value}
        trial.distributions = {**trial.distributions, name: distribution}
        self.config[name] = value
        return value

    def _new_value(self, name: str, distribution: BaseDistribution) -> Any:
        if self._is_fixed_param(name, distribution):
            value = self._fixed_params[name]
        elif distribution.single():
            value = _get_single_value(distribution)
        else:
            return distribution.to_external_repr(
                self._link.ask(messages.Suggest, name, json_of(distribution))
            )
        self.storage.set_trial_param(self._trial_id, name, distribution.to_internal_repr(value), distribution)
        return value


def _report_numbers(value: Any, step: Any) -> tuple[float, int]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"report needs a number as its value, got {type(value).__name__}") from None
    try:
        at = int(step)
    except (TypeError, ValueError):
        raise TypeError(f"report needs a whole number as its step, got {type(step).__name__}") from None
    if at < 0:
        raise ValueError(f"report needs a step of 0 or more, got {at}")
    return number, at
