"""Progress as plain lines: one for each trial that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from hpo.text import counted
from hpo.worker.events import Ended, Leaving, Reported, Started
from storage.database.engine import Database
from storage.database.errors import StorageError
from storage.database.records import Need
from storage.history.lists import progress


def to_standard_error(text: str) -> None:
    """Print a line there."""
    print(text, file=sys.stderr, flush=True)


@dataclass(eq=False)
class Lines:
    """One plain line for each trial that ends."""

    database: Database  # where counts and the best so far are read
    name_studies: bool = False  # several are served
    write: Callable[[str], None] = to_standard_error
    _started: dict[Any, tuple[Started, float]] = field(default_factory=dict)
    _last: dict[Any, Reported] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def on_event(self, runner: int, message: Any) -> None:
        """Write the end of a trial, with the count and the best so far."""
        if isinstance(message, Started):
            self._started[message.lease] = (message, time.monotonic())
            if message.resumed_from is not None:
                self.write(f"{self._name(message)}, from step {message.resumed_from}")
        elif isinstance(message, Reported):
            self._last[message.lease] = message
        elif isinstance(message, Ended) and message.lease in self._started:
            started, since = self._started.pop(message.lease)
            last = self._last.pop(message.lease, None)
            self.write(
                f"{self._name(started)} {message.state}{_result(message, last)} "
                f"({time.monotonic() - since:.1f} s){self._so_far(started.study)}"
            )
        elif isinstance(message, Leaving):
            self.write(leaving(message))

    def _name(self, started: Started) -> str:
        return named(f"{started.study}/" if self.name_studies else "trial ", started)

    def _so_far(self, study: str) -> str:
        try:
            now = self.database.once(lambda c: progress(c, study))
        except StorageError:
            return ""
        total = f"/{now.row.budget_trials}" if now.row.budget_trials is not None else ""
        best = "" if now.best_value is None else f", best {now.best_value:.6g} (trial {now.best_number})"
        return f" | {now.counts.ended}{total} done{best}"


def named(prefix: str, started: Started) -> str:
    """The trial, and which attempt at it: an attempt's end and time are not yet the trial's."""
    which = started.trial if started.again is None else f"{started.again} again"
    return f"{prefix}{which}" + (f", attempt {started.attempt}" if started.attempt > 1 else "")


def leaving(message: Leaving) -> str:
    """What a worker that was told to leave still waits for."""
    if not message.running:
        return "leaving; nothing was running"
    one, several = "trial ends at its next epoch and is", "trials end at their next epoch and are"
    return f"draining: {counted(message.running, one, several)} given back; Ctrl-C again aborts"


def _result(message: Ended, last: Reported | None) -> str:
    if message.set_aside:
        alone = "out of memory beside others; tried again with the device to itself"
        return f": {alone}" if message.set_aside is Need.CARD else " beside others; tried again alone"
    if message.error:
        lines = message.error.strip().splitlines()
        return f": {lines[-1]}" if lines else ""
    if message.state in ("pruned", "parked") and last is not None:
        return f" at step {last.step} with {last.value:.6g}"
    if message.values:
        return " " + ", ".join(f"{value:.6g}" for value in message.values)
    return ""
