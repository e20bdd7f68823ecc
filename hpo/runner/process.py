"""The runner's process: `python -m hpo.runner.process FD`, started by a worker or forked from its nursery.

It computes. It has a pipe to its worker, and neither a connection to the database nor a secret of it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from hpo.errors import ExitCode, HpoError
from hpo.runner import devices
from hpo.runner.channel import Channel
from hpo.runner.interrupt import Interrupted, StopFlag
from hpo.runner.link import Link
from hpo.runner.messages import GAVE_UP, VERSION, Boot, Broken, Quit, Ready
from hpo.runner.preload import preload
from hpo.runner.processes import become_reaper
from storage.database.errors import DatabaseFaultError, StorageError

_PR_SET_PDEATHSIG = 1


def work(link: Link, stop: StopFlag) -> int:
    """Run what the worker hands out until it says to quit; returns the exit status."""
    boot = link.orders.get()
    if not isinstance(boot, Boot) or boot.version != VERSION:
        raise HpoError("this runner and its worker are of different versions of hpo; start the worker again")
    devices.keep_to(boot.cores)  # before torch makes threads
    gc.disable()  # while it imports; `preload` enables it again
    from hpo.runner import lanes
    from hpo.runner.session import Session

    preload(boot.served.objective_path, Path(boot.code))
    try:
        session = Session(boot, link, stop)
        count, note = lanes.places(session)
        note, session.note = "; ".join(filter(None, (note, session.note))) or None, None
        if count > 1:
            lanes.work(session, count, note)
            return 0
        link.tell(Ready(dict(session.code), count, note))
        while not isinstance(order := link.orders.get(), Quit):
            assert not isinstance(order, Boot)
            session.run(order)
            if session.needs_restart:
                return 0  # for example out of GPU memory; the worker starts another in its place
            link.tell(Ready(note=session.note))
    except DatabaseFaultError as error:
        link.tell(Broken(str(error), ExitCode.FAILED))
        return GAVE_UP
    except StorageError as error:
        link.tell(Broken(str(error), ExitCode.BAD_INPUT))
    except Interrupted:
        return GAVE_UP  # nothing more can be written; what was finished is kept on disk
    return 0


def main(pipe: int) -> None:
    """Entry point of the child process; `pipe` is the number of the descriptor that leads to its worker."""
    stop = StopFlag()
    outlive_signals(stop)
    die_with_parent()
    become_reaper()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    link = Link(Channel(pipe), stop)
    try:
        status = work(link, stop)
    except HpoError as error:
        link.tell(Broken(str(error), error.exit_code))
        status = 0
    except OSError:
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads an objective left behind must not keep the process alive


def outlive_signals(stop: StopFlag) -> None:
    """SIGINT and SIGTERM are the worker's to heed, and it drains; systemd and SLURM send them to all.

    By a handler, for what is ignored stays ignored in all that an objective starts, which would then survive
    its own parent's `terminate()`. A fork keeps handlers, so there they are taken back; what comes before
    that waits until it is done, or a pool that ends its newest process at once would wait for it for ever.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    forking = threading.local()

    def handler(_number: int, _frame: object) -> None:
        stop.signalled = True

    def hold() -> None:
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, before)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def take_back() -> None:
        for number, usual in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, usual)
        let_go()

    for number in before:
        signal.signal(number, handler)
    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=take_back)


def die_with_parent() -> None:
    """When the worker dies its runners die with it, even while an objective holds the GIL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
