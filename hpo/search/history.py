"""What a study did so far, as frozen records: what tables, charts, reports and notebooks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TrialStateName = Literal["complete", "pruned", "failed", "diverged", "running", "waiting"]
STATES: tuple[TrialStateName, ...] = get_args(TrialStateName)
ENDED: tuple[TrialStateName, ...] = ("complete", "pruned", "failed", "diverged")
StudyStateName = Literal["running", "paused", "stopping", "stopped", "finished"]
STEADIER = (
    "Lower the high end of the learning rate's range, or make the training steadier: clip gradients, warm up"
)
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class AttemptSpan:
    """When one attempt worked, and where. Times are timezone-aware UTC from the database's clock."""

    number: int
    state: str  # a `storage.database.records.AttemptState`
    lane: str  # "<worker>/<runner>"
    started: datetime
    ended: datetime | None = None  # None while it runs

    @property
    def seconds(self) -> float | None:
        """How long it worked; None while it runs."""
        return None if self.ended is None else max(0.0, (self.ended - self.started).total_seconds())


@dataclass(frozen=True)
class TrialRecord:
    """One trial. Times are timezone-aware UTC from the database's clock."""

    number: int
    state: TrialStateName
    values: tuple[float, ...] | None  # one per direction; None until complete
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)  # step -> reported value
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # name -> step -> value
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1
    spans: tuple[AttemptSpan, ...] = ()  # of every attempt, oldest first
    ticket: int = 0  # index of the ticket in its study
    worker: str | None = None  # "host:pid" style name of the last attempt's worker
    runner: str | None = None  # "<worker>/<n>" of the last attempt
    device: str | None = None
    started: datetime | None = None  # start of the first attempt
    finished: datetime | None = None
    error: str | None = None  # last line of the last failed attempt's traceback, or the signal

    @property
    def seconds(self) -> float | None:
        """Time worked: what its attempts took, without the waits between them; None while one runs."""
        worked = [span.seconds for span in self.spans]
        known = [seconds for seconds in worked if seconds is not None]
        return sum(known) if known and len(known) == len(worked) else None


@dataclass(frozen=True)
class StudyHistory:
    """A study and its trials, in order of their numbers."""

    name: str
    state: StudyStateName
    directions: tuple[Direction, ...]
    spec: Mapping[str, Any]  # the study file as validated, JSON types only
    trials: tuple[TrialRecord, ...]
    created: datetime | None = None
    waiting: int = 0  # tickets nobody has started yet
    budget_trials: int | None = None  # number of tickets; None when only seconds or target end the study
    winner_evaluation: Mapping[str, Any] | None = (
        None  # validation set, of the best trial ("evaluation.json")
    )
    test_evaluation: Mapping[str, Any] | None = None  # test set, of the best trial, measured once


def why_no_best(history: StudyHistory) -> str:
    """Why a study has no best trial, after its name: "has no completed trial: ..."."""
    ends = [trial.state for trial in history.trials if trial.state in ENDED]
    diverged = ends.count("diverged")
    if not diverged:
        return "has no completed trial"
    many = f"all {diverged:,}" if diverged == len(ends) else f"{diverged:,} of {len(ends):,}"
    return f"has no completed trial: {many} diverged. {STEADIER}"
