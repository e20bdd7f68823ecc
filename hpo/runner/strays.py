"""What a trial started and left behind in a process group of its own ends with the trial (Linux).

A runner is the reaper of its descendants: what was started by a process that is gone stays below it, and is
found without an environment, a session or a parent that would tell whose it was. What stays in the runner's
own group, as data loaders do, may serve the next trial, and ends with the runner.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hpo.runner.processes import Process, children, end, is_reaper, wait_for

_LONGEST, _PAUSE = 2.0, 0.005  # seconds; a process may hang in the kernel


class Strays:
    """Ends a runner's strays, trial by trial. A process that is no reaper has children of its own."""

    def __init__(self) -> None:
        self._is_reaper = is_reaper()
        self._trials = 0  # at once
        self._lock = threading.Lock()
        self._before: set[Process] = set()
        self._unclaimed: set[Process] = set()  # dead, and nobody waited for them during the last trial

    @contextmanager
    def ended(self) -> Iterator[None]:
        """What begins in this block, and has a process group of its own, ends with it, or with the last of
        several trials at once: whose it is cannot be told.
        """
        with self._lock:
            if not self._trials:
                self._before = _descendants() if self._is_reaper else set()
            self._trials += 1
        try:
            yield
        finally:
            with self._lock:
                self._trials -= 1
                if self._is_reaper and not self._trials:
                    self._end_all()
                    self._bury_unclaimed()

    def _end_all(self) -> None:
        until, own = time.monotonic() + _LONGEST, os.getpgrp()
        while end(one for one in _descendants() - self._before if one.group != own):
            if time.monotonic() >= until:
                break
            time.sleep(_PAUSE)

    def _bury_unclaimed(self) -> None:
        """Wait for orphans that died, as init would; later, for who started a child may yet wait for it."""
        dead = {one for one in _descendants() if one.is_over}
        for one in dead & self._unclaimed:
            wait_for(one)
        self._unclaimed = dead


def _descendants() -> set[Process]:
    """Every process below this one; of dead ones those that nobody has waited for."""
    try:  # mostly there is none, and this says so at once
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[Process] = set()
    parents: list[int | str] = ["self"]
    while parents:
        for one in children(parents.pop()):
            found.add(one)
            parents.append(one.pid)
    return found
