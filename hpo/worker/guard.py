"""Ends what a killed worker's runners started, where nobody else would: python -m hpo.worker.guard WORKER-ID.

Its standard input ends with the worker, however that dies. Runners die with their worker by themselves, but
what they have started would go on, beside the next attempt at the same trial.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hpo.runner.processes import reaping
from hpo.worker.leftovers import end_leftovers, importing_hpo


@contextmanager
def guarded(worker_id: str) -> Iterator[int]:
    """While the block runs a process of this pid watches this one, which adopts what its runners leave behind
    when they die; it is ended with the block.
    """
    with (
        reaping(),
        subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-P", "-m", "hpo.worker.guard", worker_id],
            env=importing_hpo(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard,
    ):
        try:
            yield guard.pid
        finally:
            guard.kill()


def main(worker_id: str) -> None:
    """What the process does. A signal to all of a service is not for it: the worker may take its time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    end_leftovers(f"{worker_id}/")


if __name__ == "__main__":
    main(sys.argv[1])
