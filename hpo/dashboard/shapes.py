"""What the API answers with: the models its OpenAPI document is made from and its tests validate against."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hpo.search.history import TrialStateName as TrialState

StudyState = Literal["running", "paused", "stopping", "stopped", "finished"]
WorkerState = Literal["active", "draining", "left", "lost", "quarantined"]


class Shape(BaseModel):
    """Base: nothing undocumented may be in an answer."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """What every error is answered with."""

    error: str = Field(description="A sentence for a person.")


class Budget(Shape):
    trials: int | None
    seconds: float | None
    target: float | None


class Counts(Shape):
    complete: int
    pruned: int
    failed: int = Field(description="Failed or cancelled.")
    diverged: int = Field(description="The setting made the training's numbers explode.")
    running: int
    waiting: int


class Best(Shape):
    number: int
    value: float


class StudyShort(Shape):
    name: str
    state: StudyState
    ended_why: str | None
    directions: list[Literal["minimize", "maximize"]]
    sampler: str
    pruner: str
    budget: Budget
    trials: Counts
    best: Best | None = Field(description="null without a completed trial, or with several directions.")
    best_so_far: list[tuple[int, float]] = Field(description="(trial number, value) at each improvement.")
    seconds: float = Field(description="Search time, pauses left out.")
    seconds_left: float | None = Field(description="A guess from the pace so far.")
    created: str | None = Field(description="ISO 8601, UTC.")


class Study(StudyShort):
    spec: dict[str, Any] = Field(description="The study file as validated.")
    digest: str
    artifacts: str = Field(description="URL of the artifact store.")
    best_params: dict[str, Any] | None
    test: dict[str, Any] | None = Field(description="The winner on the test set, measured once.")


class Studies(Shape):
    studies: list[StudyShort]
    total: int
    page: int
    pages: int


class Trial(Shape):
    number: int
    state: TrialState
    values: list[float | None]
    params: dict[str, Any]
    last_step: int | None
    last_report: float | None
    reports: int
    seconds: float | None
    attempts: int
    worker: str | None
    device: str | None
    error: str | None


class Trials(Shape):
    trials: list[Trial]
    total: int
    page: int
    pages: int


class Point(Shape):
    step: int
    value: float | None


class Attempt(Shape):
    number: int
    state: str
    worker: str
    runner: int
    device: str
    resumed_from: int | None
    started: str | None
    ended: str | None
    seconds: float | None
    peak_memory: float | None = Field(description="Bytes.")
    error: str | None = Field(description="The whole traceback, or what ended it.")


class File(Shape):
    name: str
    bytes: int
    sha256: str


class TrialDetail(Shape):
    number: int
    state: TrialState
    values: list[float | None] | None
    params: dict[str, Any]
    attempts: int
    ticket: int
    worker: str | None
    runner: str | None
    device: str | None
    started: str | None
    finished: str | None
    seconds: float | None
    reports: list[Point]
    metrics: dict[str, list[Point]]
    user_attrs: dict[str, Any]
    error: str | None
    attempts_list: list[Attempt]
    artifacts: list[File]
    evaluation: dict[str, Any] | None


class Chart(Shape):
    figure: dict[str, Any] | None = Field(description="Plotly `data` and `layout`; null: nothing to see yet.")
    caption: str
    title: str
    size: str = Field(description="Of its place on a page: full, half or third of the width.")
    min_width: int = Field(description="Pixels it needs; on a smaller screen it scrolls sideways.")
    version: int = Field(description="Rises when the study changes.")
    again: float | None = Field(None, description="Seconds until a newer one may be had.")


class TrialChart(Shape):
    id: str
    size: str
    figure: dict[str, Any] | None
    caption: str
    title: str
    min_width: int


class Charts(Shape):
    charts: list[TrialChart]


class Log(Shape):
    attempt: int
    log: str | None


class Metrics(Shape):
    metrics: list[str]


class Curves(Shape):
    curves: dict[str, dict[str, list[Point]]]


class Check(Shape):
    rule: str
    holds: bool
    found: str


class AuditShape(Shape):
    holds: bool
    study: str
    tickets: int
    results: int
    duplicates: int
    missing: int
    failed: int
    diverged: int
    rejected_writes: int
    attempts_per_ticket: dict[str, int]
    checks: list[Check]


class Worker(Shape):
    id: str
    name: str
    host: str
    pid: int
    devices: list[str]
    state: WorkerState
    study: str | None
    trials: list[str]
    started: str | None
    last_beat: str | None
    silent_for: float = Field(description="Seconds since the last beat.")
    reason: str | None
    versions: dict[str, Any]
    status: dict[str, Any] = Field(description="What each runner is at, and the machine's load.")
    good_attempts: int
    bad_attempts: int


class Workers(Shape):
    workers: list[Worker]


class Launch(Shape):
    id: int
    study: str
    launcher: str
    host: str = Field(description="Where it was started from.")
    workers: int
    created: str | None
    stopped: str | None = Field(description="When a person stopped it.")


class Launches(Shape):
    launches: list[Launch]


class Measured(Shape):
    metric: str
    value: float


class Compared(Shape):
    name: str
    state: StudyState
    sampler: str
    pruner: str
    trials: int
    complete: int
    best: float | None
    best_number: int | None
    found_after_seconds: float | None
    found_after_epochs: float | None
    epochs: int
    seconds: float | None
    test: Measured | None


class Comparison(Shape):
    studies: list[Compared]


class Said(Shape):
    message: str = Field(description="What was done, as a sentence.")
