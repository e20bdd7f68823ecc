"""What a worker and its runners tell each other, over a pipe that only they hold.

A runner runs a stranger's code, so what comes from it is data and nothing else: JSON, checked by its worker
field by field. What a worker says is trusted, and pickled.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from objectives.imports import ObjectivePath
from storage.database.records import AttemptState, Need, objective_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.spec.command import Command

VERSION = 2  # of these messages; a runner of another one is refused
GAVE_UP = 75  # exit status of a runner that had to leave an attempt: its database was away or unusable
UNHEARD = 64  # so many of an attempt's messages may wait for their commit; then the runner waits


# From a worker to its runner


@dataclass(frozen=True)
class Served:
    """The study a runner serves, as far as it needs to know."""

    study: str  # name
    objective: str | None  # as the study file names it
    objective_path: ObjectivePath | None  # None: it is a command
    command: Command
    fixed: Mapping[str, Any]
    space: Sequence[str]  # names that the study file declares
    directions: Sequence[str]
    threads: int
    keep_last: int  # checkpoints of a running trial
    artifacts: str  # URL of the store
    folder: str  # of the study in the store
    prunes: bool = True  # whether the study has a pruner
    log: int = 50_000_000  # bytes an attempt's log may have
    attribute: int = 1_000_000  # bytes of JSON an attribute may have
    sampling: Mapping[str, str] = field(default_factory=dict)  # digests of a custom sampler's files
    keeps_pruned: bool = False  # whether pruned trials keep their checkpoints
    lanes: int = 1  # trials that a runner may train at once
    ranks: int = 1  # processes that train a trial together, each on a device of its own
    timed: bool = True  # whether it matters when a lane's training begins: the study has time-outs
    # Configs drawn from the space, to see whether lanes pay; (): they do.
    points: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Boot:
    """Once, at the start: who the runner is and what it serves. Neither a database nor a secret."""

    served: Served
    device: str  # "cpu" or "cuda:0" as the runner sees it
    code: str  # directory that objectives are relative to
    cores: tuple[int, ...] | None = None  # CPU cores it keeps to; None: wherever there is room
    shared: bool = False  # other runners of this worker use the device too
    version: int = VERSION


@dataclass(frozen=True)
class Beginning:
    """A trial as its attempt begins."""

    trial: FrozenTrial  # its declared parameters, and what earlier attempts left
    config: Mapping[str, Any]  # fixed values and parameters together
    point: Mapping[str, Any]  # values given by hand, also of names that nothing declares
    stops: bool = False  # it has come to a rung, and was lost before it was parked there


@dataclass(frozen=True)
class Task:
    """Run this attempt. `serial` tells its messages from those of the one before."""

    serial: int
    folder: str  # of the trial in the store
    attempt: int
    seed: int
    alone: bool  # it has its device to itself
    lost: bool  # attempts before it died before they got any further
    delivered: int  # attempts up to this number have delivered what they found: they were parked
    beginning: Beginning | None  # None: an earlier attempt's trial goes on; ask with `TakeOver`
    origin: str | None = None  # directory of a trial whose checkpoint it goes on from, until it has its own


@dataclass(frozen=True)
class Answer:
    """To the message of this number: all up to it is committed. An exception is raised where it asked."""

    number: int
    value: Any = None


@dataclass(frozen=True)
class Refused:
    """The attempt of this serial may write no more, or a value of it was not taken."""

    serial: int
    error: Exception


@dataclass(frozen=True)
class Away:
    """The database is away, or is back."""

    away: bool


@dataclass(frozen=True)
class Drain:
    """Stop at the end of the epoch (`now`: at the next chance) and give the ticket back."""

    now: bool = False


@dataclass(frozen=True)
class Abandon:
    """Stop: the lease of this task is gone, and nothing you write counts any more; or it is overdue."""

    serial: int
    overdue: str = ""  # why it fails, where its lease is not gone


@dataclass(frozen=True)
class Quit:
    """Leave when idle."""


ToRunner = Boot | Task | Answer | Refused | Away | Drain | Abandon | Quit


# From a runner to its worker. `number` counts a runner's messages, `serial` names the task they are of.


@dataclass(frozen=True)
class Ready:
    """Idle, wants work; first with the fingerprint of the code that it has imported."""

    code: dict[str, Any] | None = None
    lanes: int | None = None  # how many it takes from now on; None: as before
    note: str | None = None  # what people should know of that


@dataclass(frozen=True)
class Joined:
    """The lane's trial has waited for others of its kind, and is trained from now on."""


@dataclass(frozen=True)
class Broken:
    """It cannot work at all, for example because the objective cannot be imported."""

    why: str
    exit_code: int


@dataclass(frozen=True)
class Numbered:
    """What is said of a task."""

    number: int
    serial: int


@dataclass(frozen=True)
class Step(Numbered):
    """One step's value (None: metrics alone) and metrics."""

    step: int
    value: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Parameter(Numbered):
    """A parameter that needed no sampler: given by hand, or with a single value."""

    name: str
    value: float  # as the distribution stores it
    distribution: str  # JSON


@dataclass(frozen=True)
class Attribute(Numbered):
    """An attribute of the trial, or of its study."""

    of: Literal["user", "system", "study user", "study system"]
    key: str
    value: str  # JSON


@dataclass(frozen=True)
class Suggest(Numbered):
    """Asks for a parameter that the study file does not declare: its value as the distribution stores it."""

    name: str
    distribution: str  # JSON


@dataclass(frozen=True)
class ShouldPrune(Numbered):
    """Asks the pruner, once everything before it is committed."""


@dataclass(frozen=True)
class TakeOver(Numbered):
    """Asks for the `Beginning` of an earlier attempt's trial that goes on from the checkpoint of `step`.

    `finished`: its result was kept and will be delivered, so nothing of it is dropped.
    """

    step: int | None
    finished: bool = False


@dataclass(frozen=True)
class Advanced(Numbered):
    """The attempt has a checkpoint that is further than any before."""


@dataclass(frozen=True)
class FileStored(Numbered):
    """Asks to keep a file that the study may have in its store: whether it has."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class FileKept(Numbered):
    """A file of the trial is in the store now."""

    name: str
    path: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Finish(Numbered):
    """How the attempt ends. Answered when that is written; or by what keeps it from counting."""

    state: AttemptState
    values: tuple[float, ...] | None = None
    error: str | None = None
    peak_memory: float | None = None  # bytes
    reports: dict[int, float] = field(default_factory=dict)  # of a result that was kept: not written yet
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)  # by step: since the last report
    weights: tuple[str, str, str, int] | None = None  # the fields of a KeptFile
    constraints: dict[str, float] = field(default_factory=dict)  # of a result, each kept when at most 0
    set_aside: Need = Need.NOTHING  # it ended beside others: tried again with so much to itself
    code: dict[str, Any] | None = None  # what a kept result ran on; None: what this runner has


@dataclass(frozen=True)
class Sync(Numbered):
    """Asks to hear when everything before it is committed."""


@dataclass(frozen=True)
class ReadStudy(Numbered):
    """Asks for the study's trials that are newer than `version`: (version, trials)."""

    version: int


@dataclass(frozen=True)
class ReadAttributes(Numbered):
    """Asks for the study's own user or system attributes."""

    of: Literal["study user", "study system"]


@dataclass(frozen=True)
class StopStudy(Numbered):
    """The objective called `study.stop()`: what runs is finished, nothing more starts."""


@dataclass(frozen=True)
class EnqueuePoint(Numbered):
    """The objective called `study.enqueue_trial()`: answered by the ticket's number; None: there is none."""

    point: dict[str, Any]


KINDS = Numbered.__subclasses__()
# Whoever says one of these waits for the answer.
QUESTIONS = tuple(kind for kind in KINDS if kind not in (Step, Parameter, Attribute, Advanced))
ToWorker = Ready | Joined | Broken | Numbered


def from_worker(content: bytes) -> tuple[int, ToRunner]:
    """Read what a worker wrote, and to which lane."""
    slot, message = pickle.loads(content)  # noqa: S301 -- its own worker's, over a private pipe
    return slot, message


def to_runner(message: ToRunner, slot: int = 0) -> bytes:
    """Write what a worker says."""
    return pickle.dumps((slot, message))


def to_worker(message: ToWorker, slot: int = 0) -> bytes:
    """Write what a runner says of one of its lanes."""
    return json.dumps([type(message).__name__, vars(message), slot], default=_plain).encode()


def plain(value: Any) -> str:
    """JSON of an attribute; NumPy's and torch's numbers and arrays become Python's.

    Raises:
        TypeError: it is nothing of the kind.
    """
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, torch's tensors
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{type(value).__name__} cannot be recorded: it must be a number, text, list or dictionary of such"
    )


def of_directions(values: Sequence[float]) -> dict[str, float]:
    """What is reported of several directions, as metrics: Optuna's tables have no place for more than one."""
    return {objective_name(place): value for place, value in enumerate(values)}


def values_reported(
    value: float | None, metrics: Mapping[str, float], directions: int
) -> tuple[float, ...] | None:
    """The values that a step reports, one a direction; None: it has metrics alone."""
    if directions == 1:
        return None if value is None else (value,)
    names = [objective_name(place) for place in range(directions)]
    return tuple(metrics[name] for name in names) if all(name in metrics for name in names) else None
