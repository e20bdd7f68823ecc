"""What a worker tells those who watch it: its own loop, and the live view."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database.records import Lease, Need


@dataclass(frozen=True)
class Started:
    """An attempt began."""

    study: str
    lease: Lease
    trial: int
    attempt: int
    resumed_from: int | None
    is_promoted: bool = False  # it was parked before
    worked: float = 0.0  # seconds of the attempts that it goes on from
    again: int | None = None  # of a repeat: the number of the trial whose setting it trains


@dataclass(frozen=True)
class Reported:
    """One more value; proof of progress."""

    lease: Lease
    step: int
    value: float


@dataclass(frozen=True)
class Ended:
    """The attempt is over. `state` is an AttemptState."""

    lease: Lease
    state: str
    values: tuple[float, ...] | None = None
    error: str | None = None
    set_aside: Need = Need.NOTHING


@dataclass(frozen=True)
class Leaving:
    """Told to leave, the worker waits for `running` trials to reach a good point."""

    running: int
