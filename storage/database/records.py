"""States and frozen records. A record never changes once it was read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from storage.database.errors import DamagedStudyError

if TYPE_CHECKING:
    from sqlalchemy import Row  # a runner reads these records and loads no SQL

CONSTRAINT = "constraints:"  # what the system attributes begin with that hold a trial's constraints
OBJECTIVE = "objective "  # what the metrics begin with in which trials of several directions report


def objective_name(place: int) -> str:
    """The metric in which a trial reports its value of this direction, from 0, where there are several."""
    return f"{OBJECTIVE}{place + 1}"


class StudyState(StrEnum):
    """State of a study."""

    RUNNING = "running"  # tickets may be claimed
    PAUSED = "paused"  # nothing new is claimed; what runs goes on
    STOPPING = "stopping"  # nothing new; the study ends when nothing runs any more
    STOPPED = "stopped"  # ended by a person; can be resumed
    FINISHED = "finished"  # its budget is spent

    @property
    def ended(self) -> bool:
        return self in (StudyState.STOPPED, StudyState.FINISHED)


class TicketState(StrEnum):
    """State of one unit of a study's budget."""

    QUEUED = "queued"  # waits for a worker, for the first time or again
    RUNNING = "running"  # leased to an attempt
    PARKED = "parked"  # waits at a rung, with its checkpoint, until it is promoted or the study ends
    COMPLETE = "complete"  # its trial has a value
    PRUNED = "pruned"  # its trial was stopped early by the pruner
    FAILED = "failed"  # its attempts are used up
    DIVERGED = "diverged"  # its setting has no value: the training's numbers exploded
    CANCELLED = "cancelled"  # a person ended it

    @property
    def ended(self) -> bool:
        """Whether its trial gets no further attempt."""
        return self not in (TicketState.QUEUED, TicketState.RUNNING, TicketState.PARKED)


class AttemptState(StrEnum):
    """State of one worker's try at a ticket."""

    RUNNING = "running"  # holds the lease, or did until it expired unnoticed
    COMPLETE = "complete"  # delivered a value
    PRUNED = "pruned"  # delivered "not worth finishing"
    PARKED = "parked"  # stopped at a rung; a later one goes on where it was
    FAILED = "failed"  # the objective raised, crashed, hung or returned nonsense
    DIVERGED = "diverged"  # found that the setting makes the training's numbers explode
    LOST = "lost"  # its worker or runner died or went silent
    RELEASED = "released"  # given back on purpose: drained, preempted
    CANCELLED = "cancelled"  # ended by a person


RESULTS = (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.DIVERGED)


class WorkerState(StrEnum):
    """State of a worker."""

    ACTIVE = "active"  # beats
    LEFT = "left"  # went in good order
    LOST = "lost"  # stopped beating
    QUARANTINED = "quarantined"  # every attempt of its own failed; it gets no more tickets


@dataclass(frozen=True)
class StudyRow:
    """One study as stored."""

    id: int
    uid: str
    name: str
    optuna_study_id: int
    state: StudyState
    spec: Mapping[str, Any]
    digest: str
    seed: int
    budget_trials: int | None
    budget_seconds: float | None
    budget_target: float | None
    budget_epochs: int | None
    budget_patience: int | None
    artifacts: str
    code: Mapping[str, Any] | None
    test_evaluation: Mapping[str, Any] | None
    created_at: float
    seconds_used: float
    clock_started_at: float | None
    ended_at: float | None
    ended_why: str | None
    marked: int = 0  # how often stars, tags or notes changed
    repeats_of: int | None = None  # the study whose trials are repeated here
    repeats: str | None = None  # what for

    @property
    def first_name(self) -> str:
        """The name it was made under, which its directory of artifacts keeps when it is set aside."""
        return str(self.spec.get("study", self.name))

    @property
    def gpus_per_trial(self) -> int:
        """GPUs that train a trial together; a study from before there were several has one."""
        return int(self.spec.get("gpus_per_trial", 1))

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """The record of one row of `hpo_study`.

        Raises:
            DamagedStudyError: it was written by something else than us.
        """
        try:
            return cls._of(row)
        except (ValueError, TypeError) as error:
            raise DamagedStudyError(f"the study {row.name} is damaged in the database: {error}") from error

    @classmethod
    def ruin(cls, row: Row[Any]) -> Self:
        """What can be read of a damaged one, for whoever deletes it."""
        name = row.name
        with suppress(ValueError, TypeError, LookupError):
            name = str(json.loads(row.spec)["study"])
        whole = {"state": StudyState.STOPPED, "spec": json.dumps({"study": name})}
        return cls._of(
            SimpleNamespace(**dict(row._mapping) | whole | {"code": None, "test_evaluation": None})
        )

    @classmethod
    def _of(cls, row: Any) -> Self:
        read = {
            "state": StudyState(row.state),
            "spec": dict(json.loads(row.spec)),
            "code": None if row.code is None else json.loads(row.code),
            "test_evaluation": None if row.test_evaluation is None else json.loads(row.test_evaluation),
        }
        return cls(**{each.name: getattr(row, each.name) for each in fields(cls)} | read)

    def test_of(self, trial: int) -> Mapping[str, Any] | None:
        """What was measured on the test set, when it was this trial; a former winner's tells nothing."""
        note = self.test_evaluation or {}
        found = note.get("evaluation") if note.get("trial") == trial else None
        return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write: what every write of it names."""

    ticket_id: int
    attempt: int


class Need(IntEnum):
    """What a ticket needs to itself."""

    NOTHING = 0
    CARD = 1  # it ran out of memory beside others
    RUNNER = 2  # its runner died, or failed, with several lanes: nobody knows by whose fault


@dataclass(frozen=True)
class Claim:
    """A ticket just leased, with what its new attempt needs to know."""

    lease: Lease
    study_id: int
    number: int  # of the ticket in its study
    point: Mapping[str, Any]  # values fixed by a grid cell or an enqueued point; {} when blank
    trial_id: int | None  # an earlier attempt's trial goes on
    trial_number: int | None
    retry_of: int | None
    alone: Need = Need.NOTHING  # what it has to itself now
    lost: int = 0  # attempts lost since its checkpoint last advanced
    stop_at: int | None = None  # epoch at which it is parked next, once it was promoted
    parked: int = 0  # the newest of its attempts that was parked; 0: none
    worked: float = 0.0  # seconds of all that were
    copies: int | None = None  # number of the ticket whose pruned trial, `retry_of`, it carries to its end
    none_waits: int = 0  # up to this id no trial of Optuna's waits, once the claim is committed

    @property
    def is_promoted(self) -> bool:
        """Whether it takes its ticket out of those that are parked."""
        return 0 < self.parked == self.lease.attempt - 1


@dataclass(frozen=True)
class Repeat:
    """What a ticket trains again."""

    trial_id: int  # whose parameters; Optuna's
    trial_number: int
    seed: int
    seeds: int = 1  # trainings side by side; the first has the seed
    from_epoch: int | None = None  # it goes on from a checkpoint


@dataclass(frozen=True)
class KeptFile:
    """A file of a trial that is in the store already."""

    name: str
    path: str  # relative to the store
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class NothingToClaim:
    """Why there is no ticket now."""

    ended: bool  # a worker may leave
    why: str
    fault: bool = False  # because this worker, or (not ended) this worker at this study, is at fault
    alone: Need = Need.NOTHING  # what that which is left needs to itself


@dataclass(frozen=True)
class Counts:
    """Tickets of a study by state, as `hpo show` names them."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    diverged: int = 0
    running: int = 0
    parked: int = 0
    waiting: int = 0
    cancelled: int = 0
    given_back: int = 0  # of those that wait: they have a trial, which goes on where it was

    @property
    def total(self) -> int:
        return self.ended + self.running + self.parked + self.waiting

    @property
    def ended(self) -> int:
        return self.complete + self.pruned + self.failed + self.diverged + self.cancelled

    @property
    def untried(self) -> int:
        """Tickets that nobody has started."""
        return self.waiting - self.given_back

    def shown_in(self, state: StudyState) -> Self:
        """As people see them: what a finished study left untried waits for nobody."""
        return replace(self, waiting=self.given_back) if state is StudyState.FINISHED else self
