"""The trial an objective is handed: an `optuna.Trial` with a few more members."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from hpo.runner.checkpoint import CheckpointStore
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from hpo.search.diverged import for_pruner, for_sampler
from hpo.spec import StudySpec
from storage.database.errors import LeaseLostError
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore, check_name, digest
from storage.files.kept_files import KeptFile
from storage.queue.attempts import AttemptWriter


class RunningTrial(optuna.Trial):
    """One attempt at a trial.

    Beside Optuna's members: `config`, `device`, `seed`, `attempt`, `checkpoint`, `log`, `artifact`,
    `check`. Reports go out in one transaction with the metrics logged since; a step reported again
    overwrites (Optuna keeps the old value silently).
    """

    def __init__(
        self,
        study: optuna.Study,
        frozen: FrozenTrial,
        *,
        spec: StudySpec,
        config: Mapping[str, Any],
        point: Mapping[str, Any],
        device: str,
        seed: int,
        attempt: int,
        checkpoint: CheckpointStore,
        writer: AttemptWriter,
        store: ArtifactStore,
        folder: str,
        study_id: int,
        stop: StopFlag,
        on_report: Callable[[int, float], None],
    ) -> None:
        # Optuna's own constructor would read the trial again and call the sampler a second time.
        self.study = self._study = study
        self._for_sampler, self._for_pruner = for_sampler(study, spec), for_pruner(study)
        self.storage = study._storage
        self._trial_id = frozen._trial_id
        self._cached_frozen_trial = frozen
        self.relative_search_space: dict[str, BaseDistribution] | None = None
        self._relative_params: dict[str, Any] | None = None
        self._fixed_params = {name: value for name, value in point.items() if name not in frozen.params}
        self._declared = frozenset(frozen.params)
        self.config = dict(config)
        self.device = device
        self.seed = seed
        self.attempt = attempt
        self.checkpoint = checkpoint
        self._writer = writer
        self._store = store
        self._folder = folder
        self._study_id = study_id
        self._stop = stop
        self._on_report = on_report
        self._logged: dict[int, dict[str, float]] = {}
        reports = frozen.intermediate_values
        self._files_kept = 0
        self._last_step: int | None = max(reports) if reports else None
        self._named_at_last: set[str] = set()  # metrics the last reported step has
        self._for_next: dict[str, float] = {}  # metrics of the step that will be reported next

    def report(self, value: float, step: int) -> None:
        """Report the objective's value after `step` (>= 0); what pruners and charts read.

        Raises:
            Interrupted: the trial must stop.
            NotImplementedError: the study has several directions; use `log`.
        """
        self._stop.before_report()
        if len(self.study.directions) > 1:
            raise NotImplementedError(
                "report is for studies with one direction, as in Optuna; with several use trial.log(...)"
            )
        number, at = _report_numbers(value, step)
        with self._interrupted_when_lost():
            self._flush_log()
            self._writer.report(at, number, self._for_next)
        self._cached_frozen_trial.intermediate_values[at] = number
        self._last_step, self._named_at_last = at, set(self._for_next)
        self._for_next = {}
        self._on_report(at, number)
        self._stop.after_report()

    def should_prune(self) -> bool:
        """Whether the pruner finds this trial not worth finishing.

        Raises:
            Interrupted: the trial must stop.
        """
        self._stop.end_of_epoch()
        with self._interrupted_when_lost(), self._seeing(self._for_pruner):
            return bool(super().should_prune())

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
        if len(self.study.directions) > 1:  # no report will come to carry them
            at = int(step) if step is not None else 0
            self._logged.setdefault(at, {}).update(self._for_next)
            self._for_next = {}
            with self._interrupted_when_lost():
                self._flush_log()
            self._on_report(at, float(next(iter(metrics.values()), 0.0)))

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
        with self._interrupted_when_lost():
            if self._writer.keep_stored_file(self._study_id, kept, sha256, size):
                return
        self._files_kept += 1
        folder = self._folder.rpartition("/")[0]
        key = checkpoints.object_key(folder, sha256, self.number, self.attempt, self._files_kept)
        self._store.put(key, content)
        with self._interrupted_when_lost():
            self._writer.keep_file(self._study_id, KeptFile(kept, key, sha256, size))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Record a JSON value with the trial.

        Raises:
            Interrupted: the trial must stop.
        """
        with self._interrupted_when_lost():
            super().set_user_attr(key, value)

    def take_unsent(self) -> dict[int, dict[str, float]]:
        """What was logged after the last report, by step; it goes out with the result."""
        if self._for_next:
            self._logged.setdefault(self._last_step or 0, {}).update(self._for_next)
        unsent, self._logged, self._for_next = self._logged, {}, {}
        return unsent

    @property
    def last_report(self) -> tuple[float, ...] | None:
        """A pruned trial's value is its last report, as in Optuna; None when there is none."""
        reports = self._cached_frozen_trial.intermediate_values
        return (reports[max(reports)],) if reports else None

    @property
    def is_at_nan(self) -> bool:
        """Whether the last report is NaN."""
        return self.last_report is not None and math.isnan(*self.last_report)

    @contextmanager
    def _interrupted_when_lost(self) -> Iterator[None]:
        """A lost lease reaches the objective as `Interrupted`, which `except Exception` cannot swallow."""
        try:
            yield
        except LeaseLostError as error:
            self._stop.raise_to(Urgency.LOST)
            raise Interrupted(str(error)) from error

    @contextmanager
    def _seeing(self, view: optuna.Study) -> Iterator[None]:
        """Meanwhile Optuna's methods read the study through a view; the objective never does."""
        own, self.study = self._study, view
        try:
            yield
        finally:
            self.study = own

    def _flush_log(self) -> None:
        for step in sorted(self._logged):
            self._writer.report(step, None, self._logged[step])
        self._logged.clear()

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """A declared parameter's value whatever range is asked for here; others as in Optuna."""
        if name in self._declared:
            return self.config[name]
        with self._interrupted_when_lost(), self._seeing(self._for_sampler):
            value = super()._suggest(name, distribution)
        self.config[name] = value
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
