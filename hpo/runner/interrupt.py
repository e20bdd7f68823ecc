"""How a running trial is told to stop: a flag its objective meets at `report`, `should_prune`, `check`."""

from __future__ import annotations

import threading
from enum import Enum, auto


class Interrupted(BaseException):
    """The trial must drain, or its lease is lost. Never recorded as pruned or failed.

    A `BaseException`, so that an objective's `except Exception` cannot swallow it.
    """


class Urgency(Enum):
    """How soon the trial must stop."""

    NONE = auto()
    END_OF_EPOCH = auto()  # drain: after the next report and checkpoint
    NOW = auto()  # the grace period is nearly over: at the next chance
    LOST = auto()  # the lease is gone: at the next chance, and nothing may be written


class StopFlag:
    """Set by the thread that listens to the worker, read by the objective's thread."""

    def __init__(self) -> None:
        self.urgency = Urgency.NONE
        self.overdue = ""  # why the trial fails that is told to stop
        self.signalled = False  # SIGTERM or SIGINT came, perhaps to all that the objective started too
        self.leaving_now = threading.Event()  # the grace period is nearly over: what waits gives up
        self._reported_since = False

    def raise_to(self, urgency: Urgency) -> None:
        """Make it more urgent; it never becomes less so during a trial."""
        if urgency.value > self.urgency.value:
            self.urgency = urgency
        if urgency is Urgency.NOW:
            self.leaving_now.set()

    def begin_trial(self) -> None:
        """A new trial begins: a lost lease was the last one's; draining stays."""
        if self.urgency is Urgency.LOST:
            self.urgency = Urgency.NONE
        self._reported_since = self.signalled = False
        self.overdue = ""

    def between_batches(self) -> None:
        """Raise when the trial must stop in the middle of an epoch."""
        if self.urgency in (Urgency.NOW, Urgency.LOST):
            raise Interrupted(self.urgency.name)

    def before_report(self) -> None:
        """Raise when a drain was missed: the objective reported since and never asked `should_prune`."""
        self.between_batches()
        if self.urgency is Urgency.END_OF_EPOCH and self._reported_since:
            raise Interrupted(self.urgency.name)

    def after_report(self) -> None:
        """A report is in; from here the end of the epoch is due."""
        if self.urgency is Urgency.END_OF_EPOCH:
            self._reported_since = True

    def end_of_epoch(self) -> None:
        """Raise when the trial must stop now that its epoch is reported and saved."""
        if self.urgency is not Urgency.NONE:
            raise Interrupted(self.urgency.name)
