"""What a study did so far, as frozen records: what tables, charts, reports and notebooks read.

Which trial is the best, and which stand on the front, is decided here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TrialStateName = Literal["complete", "pruned", "failed", "diverged", "running", "parked", "waiting"]
StudyStateName = Literal["running", "paused", "stopping", "stopped", "finished"]
Direction = Literal["minimize", "maximize"]

ENDED: tuple[TrialStateName, ...] = ("complete", "pruned", "failed", "diverged")
STATES: tuple[TrialStateName, ...] = (*ENDED, "running", "parked", "waiting")
FOREIGN = "foreign"  # stands where a worker's name would, of a trial that no worker of ours was at
STAR, TAGS, NOTE = "hpo:star", "hpo:tags", "hpo:note"  # user attributes: what people marked trials with
STEADIER = (
    "Lower the high end of the learning rate's range, or make the training steadier: clip gradients, warm up"
)


@dataclass(frozen=True)
class AttemptSpan:
    """When one attempt worked, and where. Times are timezone-aware UTC from the database's clock."""

    number: int
    state: str  # a `storage.database.records.AttemptState`
    lane: str  # "<worker>/<runner>"
    started: datetime
    ended: datetime | None = None  # None while it runs


@dataclass(frozen=True)
class Machine:
    """How busy a worker's machine was, in at most a fixed number of samples since it started."""

    worker: str
    runners: int
    started: datetime
    times: tuple[datetime, ...]  # UTC; a sample is the mean of the time up to its moment
    shares: Mapping[str, tuple[float, ...]]  # of 100: of the runners those at work, processors, memory, cards


@dataclass(frozen=True)
class TrialRecord:
    """One trial. Times are timezone-aware UTC from the database's clock."""

    number: int
    state: TrialStateName
    values: tuple[float, ...] | None  # one a direction; None until complete
    params: Mapping[str, Any]
    # What is long stands in no `repr`: `study.best` in a notebook is a line or two.
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict, repr=False)
    reports: Mapping[int, float] = field(default_factory=dict, repr=False)  # step -> reported value
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict, repr=False)  # by name and step
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1
    spans: tuple[AttemptSpan, ...] = field(default=(), repr=False)  # of every attempt, oldest first
    ticket: int = 0  # index of the ticket in its study
    worker: str | None = None  # "host:pid" style name of the last attempt's worker
    runner: str | None = None  # "<worker>/<n>" of the last attempt
    device: str | None = None
    started: datetime | None = None  # start of the first attempt
    finished: datetime | None = None
    error: str | None = None  # last line of the last failed attempt's traceback, or the signal
    counted: int | None = None  # how many reports there are, where not all of them were read
    constraints: Mapping[str, float] = field(default_factory=dict)  # name -> kept when at most 0
    foreign: bool = False  # plain Optuna ran it, or somebody added it: outside the budget
    asked_by: str | None = None  # who proposed its point while the search ran; None: nobody did
    asked_why: str | None = None

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the constraints that it breaks."""
        return tuple(name for name, value in self.constraints.items() if not value <= 0)

    @property
    def feasible(self) -> bool:
        """Whether it breaks no constraint. Only a feasible trial can be the best."""
        return not self.constraints or not self.broken

    @property
    def value(self) -> float | None:
        """Its value in the first direction; None until complete."""
        return self.values[0] if self.values else None

    @property
    def star(self) -> bool:
        """Whether a person starred it."""
        return self.user_attrs.get(STAR) is True

    @property
    def tags(self) -> tuple[str, ...]:
        """What people tagged it with: words, sorted."""
        found = self.user_attrs.get(TAGS)
        return tuple(str(tag) for tag in found) if isinstance(found, list) else ()

    @property
    def note(self) -> str | None:
        """What a person noted with it."""
        return str(self.user_attrs.get(NOTE) or "") or None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    @property
    def steps(self) -> int:
        """How many reports it made."""
        return len(self.reports) if self.counted is None else self.counted

    @property
    def last_step(self) -> int | None:
        """The largest reported step."""
        return max(self.reports, default=None)

    @property
    def last_report(self) -> float | None:
        """The finite value at the largest step that has one; None where there is none."""
        finite = [step for step, value in self.reports.items() if math.isfinite(value)]
        return self.reports[max(finite)] if finite else None

    @property
    def seconds(self) -> float | None:
        """Time worked: what its attempts took together, without the waits between; None while one runs."""
        return self.seconds_until(None)

    def seconds_until(self, now: datetime | None) -> float | None:
        """Time worked, an attempt that runs counted until `now`."""
        ends = [span.ended or now for span in self.spans]
        if not ends or None in ends:
            return None
        return sum(
            max(0.0, (e - s.started).total_seconds()) for e, s in zip(ends, self.spans, strict=True) if e
        )


@dataclass(frozen=True)
class Estimate:
    """What one setting came to.

    `low`, `high`: nine times in ten the mean over as many other seeds lies between them, by Student's t. It
    is wider by the root of two than the interval of the mean itself, for that other mean scatters, too. None
    with a single training.
    """

    trainings: int
    mean: float
    worst: float
    low: float | None
    high: float | None
    probability: float  # that it has the best mean; 0 of one that was dropped


@dataclass(frozen=True)
class Setting:
    """One setting that was trained again."""

    trial: int
    reported: float | None  # what the search saw; None: its trial did not complete
    estimate: Estimate | None  # of values as they are, in the objective's unit; None: no training has ended
    shrinkage: float | None  # by how much the mean is worse than what was reported
    state: str  # best | tied | beaten | dropped (it could not win any more) | ended early | open
    is_first: bool  # the study's first point: its default, where it has one


@dataclass(frozen=True)
class Confirmation:
    """What trainings with fresh seeds say of a study's best settings."""

    done: bool  # nothing waits and nothing runs
    seeds: int  # asked for
    settings: tuple[Setting, ...]  # the best first
    winner: int | None  # a trial's number; None before anything is known
    tied: tuple[int, ...]  # trials that cannot be told from it
    first_would_do: bool | None  # whether the first is the winner, or tied with it; None: it was not trained
    trainings: int
    seconds: float  # worked at them

    def choose(self, best: int | None) -> int | None:
        """The trial to use, where the search's `best` is this: the winner, once all is done.

        A best that came later, when the search went on, was not trained again, and nothing is known of it.
        """
        late = best is not None and self.of(best) is None
        return best if late or not self.done or self.winner is None else self.winner

    def of(self, trial: int) -> Setting | None:
        """A setting by its trial."""
        return next((one for one in self.settings if one.trial == trial), None)


@dataclass(frozen=True, eq=False)
class StudyHistory:
    """A study and its trials, in order of their numbers; equal to itself alone, so that it can be a key."""

    name: str
    state: StudyStateName
    directions: tuple[Direction, ...]
    spec: Mapping[str, Any]  # the study file as validated, JSON types only
    trials: tuple[TrialRecord, ...]
    created: datetime | None = None
    waiting: int = 0  # tickets nobody has started yet
    budget_trials: int | None = None  # number of tickets; None when only seconds or target end the study
    winner_evaluation: Mapping[str, Any] | None = None  # validation set, of the one chosen
    test_evaluation: Mapping[str, Any] | None = None  # test set, of the one chosen, measured once
    confirmation: Confirmation | None = None  # what trainings with fresh seeds said; None: nobody asked
    machines: tuple[Machine, ...] = ()  # that worked at it, where somebody asked
    value_names: tuple[str, ...] = ()  # of the whole study, where `trials` are a selection

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best feasible trial; None without one, or with several directions."""
        return best_of(self.trials, self.directions[0]) if len(self.directions) == 1 else None

    @cached_property
    def chosen(self) -> TrialRecord | None:
        """The trial whose setting to use: the confirmed winner, once that is known, else the best."""
        if self.confirmation is None or self.best is None:
            return self.best
        won = self.confirmation.choose(self.best.number)
        return next((trial for trial in self.trials if trial.number == won), self.best)

    @property
    def is_confirmed(self) -> bool:
        """Whether all that was asked for is trained, the best trial's setting among it."""
        found, best = self.confirmation, self.best
        return found is not None and found.done and (best is None or found.of(best.number) is not None)

    @cached_property
    def winners(self) -> tuple[TrialRecord, ...]:
        """The trial to use, or with several directions the Pareto front; () without a feasible trial."""
        if len(self.directions) > 1:
            return front_of(self.trials, self.directions)
        return () if self.chosen is None else (self.chosen,)


def best_of(trials: Iterable[TrialRecord], direction: Direction, objective: int = 0) -> TrialRecord | None:
    """The complete, feasible trial with the best finite value, the earliest of equals; None without one."""
    found = min(_rated(trials, direction, objective), key=itemgetter(0, 1), default=None)
    return None if found is None else found[2]


def ranked(trials: Iterable[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials of which `best_of` is the first, the best first."""
    return [trial for _, _, trial in sorted(_rated(trials, direction), key=itemgetter(0, 1))]


def _rated(
    trials: Iterable[TrialRecord], direction: Direction, objective: int = 0
) -> list[tuple[float, int, TrialRecord]]:
    sign = -1.0 if direction == "maximize" else 1.0
    return [(sign * t.values[objective], t.number, t) for t in trials if may_win(t) and t.values]


def front_of(trials: Iterable[TrialRecord], directions: Sequence[Direction]) -> tuple[TrialRecord, ...]:
    """The complete, feasible trials that no other such beats in every direction, by number."""
    done = {trial.number: trial for trial in trials if may_win(trial)}
    front = front_of_values({number: trial.values or () for number, trial in done.items()}, directions)
    return tuple(done[number] for number in sorted(front))


def front_of_values(values: Mapping[int, tuple[float, ...]], directions: Sequence[str]) -> set[int]:
    """Keys of the points that no other point beats: nowhere worse and somewhere better.

    Sorted by the first direction, a point can only be beaten by one before it; so each is compared with
    the front found so far alone.
    """
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    losses = {key: tuple(s * v for s, v in zip(signs, point, strict=True)) for key, point in values.items()}
    front: list[tuple[float, ...]] = []
    found = set()
    for key, mine in sorted(losses.items(), key=lambda item: (item[1], item[0])):
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in front
        ):
            front.append(mine)
            found.add(key)
    return found


def may_win(trial: TrialRecord) -> bool:
    """Whether a trial can be the best, or on the front: its values are finite, and it breaks no constraint.

    An infinite one is a result as in Optuna, but the last of all, whichever way it points.
    """
    if trial.state != "complete" or not trial.values or not trial.feasible:
        return False
    return all(map(math.isfinite, trial.values))


def why_no_best(history: StudyHistory) -> str:
    """Why a study has no best trial, after its name: "has no completed trial: ..."."""
    ends = [trial.state for trial in history.trials if trial.state in ENDED]
    if complete := [trial for trial in history.trials if trial.state == "complete"]:
        names = sorted({name for trial in complete for name in trial.broken})
        if any(trial.feasible for trial in complete):
            kept = " that breaks no constraint" if names else ""
            return f"has no completed trial with a finite value{kept}"
        which = f"the constraint {names[0]}" if len(names) == 1 else f"a constraint: {', '.join(names)}"
        return f"has no feasible trial: each of the {len(complete):,} that completed breaks {which}"
    diverged = ends.count("diverged")
    if not diverged:
        return "has no completed trial"
    many = f"all {diverged:,}" if diverged == len(ends) else f"{diverged:,} of {len(ends):,}"
    return f"has no completed trial: {many} diverged. {STEADIER}"
