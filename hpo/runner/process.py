"""The runner's process: `python -m hpo.runner.process FD`, started by a worker and by nobody else."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from hpo.errors import DatabaseError, ExitCode, HpoError
from hpo.runner import devices
from hpo.runner.interrupt import StopFlag, Urgency
from hpo.runner.messages import GAVE_UP, Abandon, Boot, Broken, Drain, Quit, Ready, Run

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1


class Runner:
    """Listens to its worker in a thread and runs trials in the main thread."""

    def __init__(self, pipe: Connection, stop: StopFlag) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Run | Quit] = queue.SimpleQueue()
        self._stop = stop
        self._database: Any = None
        self._lease: Any = None
        self._leaving = threading.Event()

    def main(self) -> int:
        """Work until told to quit; returns the exit status."""
        boot: Boot = self._pipe.recv()
        devices.keep_to(boot.cores)  # before torch makes threads
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        from hpo.runner.session import StudySession
        from hpo.wiring import telling
        from storage.database.engine import Patience
        from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError, UnknownStudyError
        from storage.queue.attempts import AttemptWriter

        database = self._connect(boot)
        self._database = database
        database.patience = Patience(endless=True)
        writer = AttemptWriter(database)
        session: StudySession | None = None
        self._send(Ready())
        while True:
            order = self._orders.get()
            if isinstance(order, Quit):
                return 0
            try:
                if session is None:  # a runner serves one study; its worker replaces it for another
                    with telling():
                        session = StudySession(database, writer, boot, order.study)
                session.run_one(self._stop, self._send, order.alone)
                if session.needs_restart:
                    return 0  # for example out of GPU memory; the worker starts another in its place
            except HpoError as error:
                self._send(Broken(str(error), error.exit_code))
                return 0
            except UnknownStudyError as error:
                self._send(Broken(str(error), ExitCode.NOT_FOUND))
                return 0
            except DatabaseFaultError as error:
                self._send(Broken(str(error), ExitCode.FAILED))
                return GAVE_UP
            except DatabaseUnreachableError:
                return GAVE_UP  # nothing more can be written; what was finished is kept on disk
            self._send(Ready())

    def _connect(self, boot: Boot) -> Any:
        """The worker has been connected, so a database that is away will come back."""
        from hpo.settings import Settings
        from hpo.wiring import open_storage

        while True:
            try:
                return open_storage(Settings(storage=boot.storage))
            except DatabaseError as error:
                log.warning("%s; trying again", error)
                if self._leaving.wait(1.0):
                    raise

    def _send(self, message: Any) -> None:
        from hpo.runner.messages import Ended, Started

        if isinstance(message, Started):
            self._lease = message.lease
        elif isinstance(message, Ended):
            self._lease = None
        with self._sending:
            self._pipe.send(message)

    def _listen(self) -> None:
        """Take orders; when the worker is gone, so is this process."""
        while True:
            try:
                order = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(1)
            if isinstance(order, Run | Quit):
                self._orders.put(order)
            if isinstance(order, Quit | Drain):
                self._leaving.set()
            if isinstance(order, Abandon) and order.lease == self._lease:
                self._stop.raise_to(Urgency.LOST)
            if isinstance(order, Drain):
                self._stop.raise_to(Urgency.NOW if order.now else Urgency.END_OF_EPOCH)
                if order.now and self._database is not None:
                    self._database.patience.give_up.set()


def main() -> None:
    """Entry point of the child process."""
    stop = StopFlag()
    _outlive_signals(stop)
    _die_with_parent()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    pipe = Connection(int(sys.argv[1]))
    try:
        status = Runner(pipe, stop).main()
    except HpoError as error:
        pipe.send(Broken(str(error), error.exit_code))
        status = 0
    except (BrokenPipeError, EOFError, ConnectionResetError):
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads an objective left behind must not keep the process alive


def _outlive_signals(stop: StopFlag) -> None:
    """SIGINT and SIGTERM are the worker's to heed, and it drains; systemd and SLURM send them to all.

    By a handler, for what is ignored stays ignored in all that an objective starts, which would then survive
    its own parent's `terminate()`. A fork keeps handlers, so there they are taken back.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(_number: int, _frame: object) -> None:
        stop.signalled = True

    def take_back() -> None:
        for number, usual in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, usual)

    for number in before:
        signal.signal(number, handler)
    os.register_at_fork(after_in_child=take_back)


def _die_with_parent() -> None:
    """When the worker dies its runners die with it, even while an objective holds the GIL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
