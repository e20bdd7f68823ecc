"""A worker for a person's own Python process, its *kernel*: a notebook's, a script's, an interactive one.

`python -m hpo.worker.kernel` is started by the kernel and ends with it. The kernel is its one runner, on a
pipe like any other's, so that its lease is renewed here however long it computes. Or, for an objective that
others can import, the worker starts runners of its own. What it tells the kernel is JSON, one line each.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from hpo.errors import HpoError
from hpo.runner.channel import Mailbox
from hpo.runner.messages import Abandon, Boot
from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.confirming import open_
from hpo.studies.reading import get_study
from hpo.wiring import open_storage, told
from hpo.worker.child import Child
from hpo.worker.desk import Desk
from hpo.worker.devices import Share, plan
from hpo.worker.events import Leaving
from hpo.worker.leftovers import importing_hpo
from hpo.worker.limits import Limits
from hpo.worker.lines import Lines
from hpo.worker.supervisor import Worker
from hpo.worker.turns import Assignment
from storage.database.errors import StorageError

_LOOK = 1.0  # seconds between looks at whether the kernel lives, where a fork of it holds its pipe


@dataclass(frozen=True)
class Request:
    """What the kernel asks for, on standard input; that ends with the kernel."""

    storage: str  # URL, with its password
    study: str
    code: str  # directory that the objective is relative to
    count: int | None  # leave after so many trials
    allow_mismatch: bool
    allow_commands: bool
    runners: int | None  # None: the kernel is the runner
    pipe: int | None  # descriptor of the pipe to it


class Kernel(Child):
    """The kernel as its worker sees it: it is not ours to kill, and may leave when it likes."""

    @classmethod
    def seat(
        cls,
        pipe: int,
        index: int,
        share: Share,
        assignment: Assignment,
        _worker_id: str,
        boot: Boot,
        seat: Callable[[Mailbox], Desk],
    ) -> Kernel:
        """Take the process at the other end of the pipe, which runs already, for a runner."""
        desk = seat(Mailbox(socket.socket(fileno=pipe)))
        desk.tell(boot)
        parent: Any = _Parent(os.getppid())
        return cls(index, share, assignment, parent, None, "", desk, None)

    def receive(self) -> list[bytes]:
        """What it has said since."""
        try:
            return self.desk.mailbox.receive()
        except EOFError:
            self.process.returncode = 0
            return []

    def kill(self) -> None:
        """Hang up: it hears of that at its next word."""
        self.process.returncode = 0

    def end_if_hung(self) -> None:
        """Have an overdue trial fail at its next word; one that says none is a person's to interrupt."""
        why = None if self.current is None or self.abandoned is not None else self.overdue
        if why is not None and self.desk.held is not None:
            self.desk.tell(Abandon(self.desk.held.serial, why))
            self.abandoned = time.monotonic()

    def close(self) -> None:
        """Forget it."""
        self.desk.mailbox.close()

    def how_it_died(self) -> tuple[str, bool]:
        """A sentence; nobody is to blame."""
        return "the Python process that ran its trials has ended", False


class _Parent:
    """The process that started this one, as far as it is asked for like one that this one started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and os.getppid() != self.pid:
            self.returncode = 1
        return self.returncode


def start(request: Request) -> subprocess.Popen[str]:
    """Start the worker, from the kernel. Ctrl-C in a terminal is for the kernel alone."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hpo.worker.kernel"],
        env={**os.environ, **importing_hpo()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[] if request.pipe is None else [request.pipe],
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(request)) + "\n")
    process.stdin.flush()
    return process


def main() -> None:
    """What the process does."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    try:
        code, why = _work(request)
    except HpoError as error:
        code, why = error.exit_code, str(error)
    except StorageError as error:
        code, why = told(error).exit_code, str(error)
    _tell(outcome=[code, why])
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do: taking down what was imported costs the kernel its time


def _work(request: Request) -> tuple[int, str]:
    seat = None if request.pipe is None else partial(Kernel.seat, request.pipe)
    settings = Settings.from_environment(request.storage)
    database = open_storage(settings, create=False)
    row = get_study(database, request.study)
    if row.state.ended:
        row = open_(database, row) or row
    lines = Lines(database, write=lambda text: _tell(line=text))

    def on_event(runner: int, message: Any) -> None:
        if seat is None or not isinstance(message, Leaving):  # the kernel leaves at once
            lines.on_event(runner, message)

    outcome = Worker(
        database,
        settings,
        Assignment(row, StudySpec.model_validate(row.spec)),
        request.code,
        plan("all", 1, request.runners or 1, row.gpus_per_trial),
        limits=Limits(request.count),
        allow_mismatch=request.allow_mismatch,
        allow_commands=request.allow_commands,
        on_event=on_event,
        seat=seat,
    ).run()
    return outcome.exit_code, outcome.why


def _tell(**said: Any) -> None:
    try:
        print(json.dumps(said), flush=True)
    except OSError:  # the kernel is gone, and this process with it
        return


def _follow(kernel: int) -> None:
    """Have this worker leave when its kernel is gone."""
    while os.getppid() == kernel:
        ended, _, _ = select.select([sys.stdin], [], [], _LOOK)
        if ended:
            break
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
