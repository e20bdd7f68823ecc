"""A runner as its worker sees it: a spawned process, a pipe, and what it is at."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hpo.runner.messages import Abandon, Boot, Quit, Started, ToRunner
from hpo.worker.devices import Share
from hpo.worker.identity import process_started
from hpo.worker.leftovers import MARK, end_leftovers, importing_hpo
from hpo.worker.turns import Assignment
from storage.database.records import Lease

KILL_AFTER = 5.0  # seconds in which a runner notices that its lease is lost
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Child:
    """One runner process."""

    index: int
    share: Share
    assignment: Assignment
    process: subprocess.Popen[bytes]
    process_key: tuple[int, float]  # its pid and when it started
    mark: str  # in its environment, and so in that of whatever it starts
    pipe: Connection
    pidfd: int | None
    idle: bool = False
    dismissed: bool = False  # it was told to leave, or said itself that it cannot work
    asked: bool = False  # a Run order is out
    alone: bool = False  # ... for a trial that needs the device to itself
    ready_once: bool = False
    current: Started | None = None
    current_since: float = 0.0  # monotonic
    last_progress: float = 0.0  # monotonic
    last_step: int | None = None
    last_value: float | None = None
    why_killed: str | None = None  # set when the worker itself ends it
    abandoned: float | None = None  # when it was told that its lease is lost; monotonic

    @classmethod
    def spawn(cls, index: int, share: Share, boot: Boot, assignment: Assignment) -> Child:
        """Start a runner for a study. Spawned, never forked: CUDA and thread pools do not survive a fork."""
        ours, theirs = socket.socketpair()
        environment = importing_hpo()
        for name in _THREAD_VARIABLES:
            environment[name] = str(assignment.spec.threads)
        if share.visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = share.visible
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts
        mark = f"{boot.worker_id}/{uuid.uuid4().hex}"
        environment[MARK] = mark
        process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-P", "-m", "hpo.runner.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
            start_new_session=True,  # Ctrl-C in the terminal is for the worker alone
        )
        theirs.close()
        pipe = Connection(ours.detach())
        with contextlib.suppress(OSError):
            pipe.send(boot)
        pidfd = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(process.pid)
        key = (process.pid, process_started(process.pid) or 0.0)
        return cls(index, share, assignment, process, key, mark, pipe, pidfd)

    @property
    def busy(self) -> bool:
        """Whether it runs, or is about to claim, a ticket."""
        return self.current is not None or self.asked

    @property
    def free(self) -> bool:
        """Whether it waits for an order."""
        return self.idle and not self.busy

    @property
    def never_worked(self) -> bool:
        """Whether it ended by itself where a runner should have gone on to a trial."""
        if self.dismissed:
            return False
        return not self.ready_once or (self.process.returncode != 0 and self.how_it_died()[1])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def at(self) -> dict[str, Any]:
        """What it is at, for `hpo workers` and the dashboard."""
        current = self.current
        return {
            "device": self.share.shown,
            "trial": None if current is None else current.trial,
            "attempt": None if current is None else current.attempt,
            "step": self.last_step,
            "value": self.last_value,
        }

    def tell(self, order: ToRunner) -> None:
        """Send an order; a runner that is just dying does not hear it."""
        with contextlib.suppress(OSError):
            self.pipe.send(order)

    def dismiss(self) -> None:
        """Have it leave; only when it is free."""
        self.idle, self.dismissed = False, True
        self.tell(Quit())

    def abandon(self, lease: Lease) -> None:
        """Tell it that its lease is lost; it has until KILL_AFTER to notice."""
        self.tell(Abandon(lease))
        self.abandoned = time.monotonic()

    def kill(self) -> None:
        """SIGKILL to the runner and its process group; a runner outlives SIGTERM."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end_if_hung(self) -> None:
        """End a trial that takes longer, or has not reported for longer, than its study allows."""
        now = time.monotonic()
        total, quiet = self.assignment.spec.trial_timeout, self.assignment.spec.report_timeout
        if self.current is None:
            self.abandoned = None
            return
        if self.abandoned is not None:
            if now - self.abandoned > KILL_AFTER:
                self.kill()
            return
        if total is not None and now - self.current_since > total:
            self.why_killed = f"it took longer than trial_timeout ({total:g} s)"
        elif quiet is not None and now - self.last_progress > quiet:
            self.why_killed = f"no report for longer than report_timeout ({quiet:g} s)"
        if self.why_killed is not None:
            self.kill()

    def close(self) -> None:
        """Forget a runner that has ended."""
        self.process.wait()
        self.kill()  # data loaders it left behind share its process group
        if self.process.returncode != 0:  # what it did not end itself, wherever it put it
            end_leftovers(self.mark)
        self.pipe.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def how_it_died(self) -> tuple[str, bool]:
        """A sentence, and whether the trial is to blame (a SIGKILL from outside is nobody's fault)."""
        if self.why_killed is not None:
            return self.why_killed, True
        status = self.process.returncode
        if status is not None and status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = f"signal {-status}"
            innocent = -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
            if -status == signal.SIGKILL:
                return "its runner was killed by SIGKILL (by hand, or out of memory)", False
            return f"its runner died by {name}", not innocent
        return f"its runner's process exited with status {status} during the trial", True


def _has_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, ValueError, AttributeError):
        return False
