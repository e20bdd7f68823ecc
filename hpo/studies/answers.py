"""What is answered, typed once: `--format json`, the API and its OpenAPI document are made of these.

Plain dataclasses, so that a command that lists something imports no validation; `plain` makes JSON of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from hpo.studies import confirmed
from hpo.studies.reading import read_evaluation
from hpo.studies.why import why
from storage.database.clock import to_datetime
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow, StudyState
from storage.history import lists
from storage.history.attempts import AttemptRow, FileRow, attempts_of, files_of
from storage.history.lists import Progress
from storage.history.records import Confirmation, Direction, StudyStateName, TrialRecord, TrialStateName
from storage.history.trials import Part, history_of, read_trials
from storage.queue.workers import WorkerRow


@dataclass(frozen=True)
class Says:
    """What a field says, for the OpenAPI document."""

    description: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Called by pydantic, which is asked for the document alone."""
        return {**handler(schema), "description": self.description}


@dataclass(frozen=True)
class Budget:
    """A study's budget; what is met first ends the study."""

    trials: int | None
    seconds: float | None
    epochs: int | None
    target: float | None
    patience: int | None


@dataclass(frozen=True)
class TrialCounts:
    """Trials by state."""

    complete: int
    pruned: int
    failed: Annotated[int, Says("Failed or cancelled.")]
    diverged: int
    running: int
    parked: int
    waiting: int


@dataclass(frozen=True)
class Best:
    """A best trial in short."""

    number: int
    value: Annotated[float | None, Says("Of the first direction.")]
    values: list[float | None]
    params: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study in a list."""

    name: str
    state: StudyStateName
    ended_why: str | None
    objective: str
    directions: list[Direction]
    sampler: Annotated[dict[str, Any], Says("Its name and options.")]
    pruner: Annotated[dict[str, Any], Says("Its name and options.")]
    budget: Budget
    trials: TrialCounts
    done: Annotated[int, Says("Trials that ended.")]
    running: int
    best: Annotated[Best | list[Best] | None, Says("Several directions: the Pareto front.")]
    trial: Annotated[int | None, Says("Number of the best trial; null with several directions.")]
    best_so_far: Annotated[list[tuple[int, float]], Says("(trial number, value) at each improvement.")]
    seconds: Annotated[float, Says("Search time, pauses left out.")]
    epochs: Annotated[int | None, Says("Trained, or reserved by what runs, of a budget of epochs.")]
    seconds_left: Annotated[float | None, Says("A guess from the pace so far.")]
    created: Annotated[datetime | None, Says("ISO 8601, UTC.")]


@dataclass(frozen=True)
class StudyDetail(Study):
    """One study."""

    spec: Annotated[dict[str, Any], Says("The study file as validated.")]
    keep: Any
    digest: str
    artifacts: Annotated[str, Says("URL of the artifact store.")]
    best_params: Annotated[dict[str, Any] | None, Says("null with several directions.")]
    confirmation: Annotated[Confirmation | None, Says("What trainings with fresh seeds say, where asked.")]
    chosen: Annotated[int | None, Says("The trial to use: the confirmed winner, else the best.")]
    test: Annotated[dict[str, Any] | None, Says("What that one has on the test set, measured once.")]
    test_evaluation: Annotated[dict[str, Any] | None, Says("All that was measured there.")]
    seconds_used: Annotated[float, Says("As `seconds`.")]


@dataclass(frozen=True)
class Point:
    """One value of a series."""

    step: int
    value: float | None


@dataclass(frozen=True)
class Trial:
    """One trial."""

    number: int
    state: TrialStateName
    values: Annotated[list[float | None] | None, Says("One a direction; null until complete.")]
    params: dict[str, Any]
    attempts: int
    ticket: int
    worker: Annotated[str | None, Says("Of the last attempt.")]
    runner: str | None
    device: str | None
    started: datetime | None
    finished: datetime | None
    seconds: Annotated[float | None, Says("Time worked, all attempts together.")]
    last_step: int | None
    last_report: float | None
    reports: list[Point]
    metrics: dict[str, list[Point]]
    user_attrs: dict[str, Any]
    constraints: Annotated[dict[str, float | None], Says("Each is kept when it is at most 0.")]
    foreign: Annotated[bool, Says("Plain Optuna ran it, or somebody added it: outside the budget.")]
    feasible: Annotated[bool, Says("Whether it breaks no constraint; else it is never the best.")]
    error: Annotated[str | None, Says("The last line of what ended the last attempt.")]
    asked_by: Annotated[str | None, Says("Who proposed its point while the search ran; null: nobody.")]
    asked_why: str | None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial."""

    number: int
    state: str
    worker: str
    runner: int
    device: str
    resumed_from: Annotated[int | None, Says("Step of the checkpoint it went on from.")]
    started: datetime | None
    ended: datetime | None
    seconds: float | None
    peak_memory: Annotated[float | None, Says("Bytes.")]
    error: Annotated[str | None, Says("The whole traceback, or what ended it.")]
    versions: Annotated[Mapping[str, str], Says("Of its worker's Python and packages.")]


@dataclass(frozen=True)
class File:
    """One file kept with a trial."""

    name: str
    bytes: int
    sha256: str
    path: Annotated[str, Says("Relative to the study's artifact store.")]


@dataclass(frozen=True)
class TrialDetail(Trial):
    """One trial with all that is kept of it."""

    attempts_list: list[Attempt]
    artifacts: list[File]
    why: Annotated[str, Says("How it came to its point, in a sentence or two.")]
    evaluation: Annotated[dict[str, Any] | None, Says("Of its best epoch on the validation set.")]


@dataclass(frozen=True)
class Worker:
    """One worker."""

    id: str
    name: str
    host: str
    pid: int
    devices: list[str]
    state: Literal["active", "left", "lost", "quarantined"]
    study: str | None
    trials: list[str]
    started: datetime | None
    last_beat: datetime | None
    silent_for: Annotated[float, Says("Seconds since the last beat.")]
    reason: str | None
    versions: dict[str, Any]
    status: Annotated[dict[str, Any], Says("What each runner is at, and the machine's load.")]
    good_attempts: int
    bad_attempts: int


def plain(answer: Any) -> Any:
    """An answer as JSON's types: NaN and infinities are None, times ISO 8601 in UTC."""
    if isinstance(answer, float):
        return answer if math.isfinite(answer) else None
    if isinstance(answer, datetime):
        return answer.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return {each.name: plain(getattr(answer, each.name)) for each in dataclasses.fields(answer)}
    if isinstance(answer, Mapping):
        return {key: plain(item) for key, item in answer.items()}
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes):
        return [plain(item) for item in answer]
    return answer


def study(connection: Transaction, name: str) -> Study:
    """One study as a list shows it.

    Raises:
        UnknownStudyError
    """
    return Study(**_study(connection, lists.progress(connection, name)))


def study_detail(connection: Transaction, name: str) -> StudyDetail:
    """One study.

    Raises:
        UnknownStudyError
    """
    now = lists.progress(connection, name)
    row, fields = now.row, _study(connection, now)
    best = fields["best"]
    confirmation = confirmed.of(connection, row)
    chosen = now.best_number if confirmation is None else confirmation.choose(now.best_number)
    tested = None if chosen is None else row.test_of(chosen)
    return StudyDetail(
        **fields,
        spec=dict(row.spec),
        keep=row.spec.get("keep"),
        digest=row.digest,
        artifacts=row.artifacts,
        best_params=best.params if isinstance(best, Best) else None,
        confirmation=confirmation,
        chosen=chosen,
        test=None if tested is None else tested.get("metrics"),
        test_evaluation=None if tested is None else dict(tested),
        seconds_used=fields["seconds"],
    )


def best(trial: TrialRecord) -> Best:
    """A best trial in short."""
    values: list[float | None] = list(trial.values or ())
    return Best(trial.number, values[0] if values else None, values, dict(trial.params))


def trial(record: TrialRecord, now: datetime | None = None) -> Trial:
    """One trial as lists, exports and pages give it; an attempt that runs counts until `now`."""
    return Trial(**_trial(record, now))


def trial_detail(database: Database, row: StudyRow, record: TrialRecord) -> TrialDetail:
    """One trial with its attempts, files and evaluation."""

    number = record.number

    def read(connection: Transaction) -> tuple[list[AttemptRow], list[FileRow], str]:
        attempts, files = attempts_of(connection, row, number), files_of(connection, row, number)
        return attempts, files, why(connection, row, record)

    attempts, files, told = database.read(read)
    evaluation = read_evaluation(database, row, number) if files else None
    return TrialDetail(
        **_trial(record),
        attempts_list=[attempt(found) for found in attempts],
        artifacts=[File(**dataclasses.asdict(file)) for file in files],
        why=told,
        evaluation=None if evaluation is None else dict(evaluation),
    )


def attempt(row: AttemptRow) -> Attempt:
    """One attempt at a trial."""
    worked = None
    if row.started is not None and row.ended is not None:
        worked = round(max(0.0, (row.ended - row.started).total_seconds()), 3)
    return Attempt(**_same(Attempt, row, {"seconds": worked}))


def worker(row: WorkerRow) -> Worker:
    """One worker."""
    others = {
        "state": row.state.value,
        "started": to_datetime(row.started_at),
        "last_beat": to_datetime(row.beat_at),
        "silent_for": round(max(row.silent_for, 0.0), 1),
    }
    return Worker(**_same(Worker, row, others))


def points(series: Mapping[int, float]) -> list[Point]:
    """A series by step."""
    return [Point(step, value) for step, value in series.items()]


def seconds_left(now: Progress) -> float | None:
    """Seconds until the budget is spent at the pace so far; None when it does not run or is new."""
    if now.row.state is not StudyState.RUNNING:
        return None
    guesses = []
    done, budget = now.spent or (0, 0)
    if done and now.seconds > 0 and now.counts.ended + now.counts.parked:
        guesses.append(now.seconds / done * max(0, budget - done))
    if now.row.budget_seconds is not None:
        guesses.append(max(0.0, now.row.budget_seconds - now.seconds))
    return min(guesses, default=None)


def shown_objective(row: StudyRow) -> str:
    """The study's objective, or its command as it would be typed."""
    if row.spec["objective"] is not None:
        return str(row.spec["objective"])
    from hpo.spec.command import shown_command

    return shown_command(row.spec["command"])


def _study(connection: Transaction, now: Progress) -> dict[str, Any]:
    row = now.row
    winners = [best(record) for record in _winners(connection, now)]
    return {
        "name": row.name,
        "state": row.state.value,
        "ended_why": row.ended_why,
        "objective": shown_objective(row),
        "directions": list(row.spec["directions"]),
        "sampler": dict(row.spec["sampler"]),
        "pruner": dict(row.spec["pruner"]),
        "budget": Budget(
            row.budget_trials, row.budget_seconds, row.budget_epochs, row.budget_target, row.budget_patience
        ),
        "trials": TrialCounts(
            **_same(TrialCounts, now.counts, {"failed": now.counts.failed + now.counts.cancelled})
        ),
        "done": now.counts.ended,
        "running": now.counts.running,
        "best": winners if len(row.spec["directions"]) > 1 else next(iter(winners), None),
        "trial": now.best_number,
        "best_so_far": list(lists.improvements(connection, row)),
        "seconds": round(now.seconds, 3),
        "epochs": now.epochs,
        "seconds_left": seconds_left(now),
        "created": to_datetime(row.created_at),
    }


def _winners(connection: Transaction, now: Progress) -> tuple[TrialRecord, ...]:
    """The best trial, or with several directions the Pareto front, with parameters."""
    if len(now.row.spec["directions"]) > 1:
        ended = read_trials(connection, now.row, with_=Part(0), ended=True)
        front = {winner.number for winner in history_of(now.row, ended.values()).winners}
        ids = [trial_id for trial_id, record in ended.items() if record.number in front]
    else:
        ids = [] if now.best_id is None else [now.best_id]
    return tuple(read_trials(connection, now.row, ids, with_=Part.PARAMS).values())


def _trial(record: TrialRecord, now: datetime | None = None) -> dict[str, Any]:
    seconds = record.seconds_until(now)
    others: dict[str, Any] = {
        "values": None if record.values is None else list(record.values),
        "seconds": None if seconds is None else round(seconds, 3),
        "reports": points(record.reports),
        "metrics": {name: points(series) for name, series in record.metrics.items()},
    }
    return _same(Trial, record, others)


def _same(kind: type[Any], found: Any, others: dict[str, Any]) -> dict[str, Any]:
    """The fields of an answer as they are called in what was found, but for `others`."""
    names = [each.name for each in dataclasses.fields(kind) if each.name not in others]
    return {name: getattr(found, name) for name in names} | others
