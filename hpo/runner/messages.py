"""What a worker and its runners tell each other, over a pipe that only they hold."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database.records import Lease

GAVE_UP = 75  # exit status of a runner that had to leave an attempt: its database was away or unusable


@dataclass(frozen=True)
class Boot:
    """Worker to runner, once: who it is and where it works."""

    worker_id: str
    runner: int
    device: str  # "cpu" or "cuda:0" as the runner sees it
    shown_device: str  # as people see it, "cuda:1" for the machine's second card
    storage: str  # with the password: never printed
    code: str  # directory that objectives are relative to
    lease: float  # seconds
    cores: tuple[int, ...] | None = None  # CPU cores it keeps to; None: wherever there is room
    shared: bool = False  # other runners of this worker use the device too
    allow_mismatch: bool = False  # run although the code differs from the study's; noted on each trial


@dataclass(frozen=True)
class Run:
    """Worker to runner: claim one ticket of this study and run it."""

    study: str
    alone: bool | None = None  # True: one that needs the device to itself; False: none of those


@dataclass(frozen=True)
class Drain:
    """Worker to runner: stop at the end of the epoch (`now`: at the next chance) and give the ticket back."""

    now: bool = False


@dataclass(frozen=True)
class Abandon:
    """Worker to runner: this lease is gone; stop, nothing you write counts any more."""

    lease: Lease


@dataclass(frozen=True)
class Quit:
    """Worker to runner: leave when idle."""


@dataclass(frozen=True)
class Ready:
    """Runner to worker: idle, wants work."""


@dataclass(frozen=True)
class Started:
    """Runner to worker: an attempt began."""

    study: str
    lease: Lease
    trial: int
    attempt: int
    resumed_from: int | None


@dataclass(frozen=True)
class Reported:
    """Runner to worker: one more value; proof of progress."""

    lease: Lease
    step: int
    value: float


@dataclass(frozen=True)
class Ended:
    """Runner to worker: the attempt is over. `state` is an AttemptState."""

    lease: Lease
    state: str
    values: tuple[float, ...] | None = None
    error: str | None = None
    set_aside: bool = False  # out of memory beside others: tried again with the device to itself


@dataclass(frozen=True)
class NoTicket:
    """Runner to worker: nothing to claim."""

    ended: bool
    why: str
    fault: bool = False  # because this worker, or (not ended) this worker at this study, is at fault
    alone: bool = False  # what is left needs a device to itself


@dataclass(frozen=True)
class Broken:
    """Runner to worker: it cannot work at all, for example because the objective cannot be imported."""

    why: str
    exit_code: int


@dataclass(frozen=True)
class Leaving:
    """Worker to those who watch it: told to leave, it waits for `running` trials to reach a good point."""

    running: int


ToRunner = Run | Drain | Abandon | Quit
