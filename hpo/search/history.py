"""What a study did so far, as frozen records: what tables, charts, reports and notebooks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TrialStateName = Literal["complete", "pruned", "failed", "running", "waiting"]
StudyStateName = Literal["running", "paused", "stopping", "stopped", "finished"]
Direction = Literal["minimize", "maximize"]


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
    ticket: int = 0  # index of the ticket in its study
    worker: str | None = None  # "host:pid" style name of the last attempt's worker
    runner: str | None = None  # "<worker>/<n>", the timeline's lane
    device: str | None = None
    started: datetime | None = None  # start of the first attempt
    finished: datetime | None = None
    error: str | None = None  # last line of the last failed attempt's traceback, or the signal


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
