"""What a trial started and left behind in a process group of its own ends with the trial (Linux).

A runner is the reaper of its descendants: what was started by a process that is gone stays below it, and is
found without an environment, a session or a parent that would tell whose it was. What stays in the runner's
own group, as data loaders do, may serve the next trial, and ends with the runner.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_LONGEST, _PAUSE = 2.0, 0.005  # seconds; a process may hang in the kernel


@dataclass(frozen=True)
class _Process:
    pid: int
    started: int  # ticks since boot: tells a pid that is given again
    group: int
    is_over: bool = field(compare=False)  # and nobody has waited for it yet


def become_reaper() -> None:
    """What this process's descendants leave behind becomes its own child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _is_reaper() -> bool:
    answer = ctypes.c_int()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


class Strays:
    """Ends a runner's strays, trial by trial. A process that is no reaper has children of its own."""

    def __init__(self) -> None:
        self._is_reaper = _is_reaper()
        self._trials = 0  # at once
        self._before: set[_Process] = set()
        self._unclaimed: set[_Process] = set()  # dead, and nobody waited for them during the last trial

    @contextmanager
    def ended(self) -> Iterator[None]:
        """What begins in this block, and has a process group of its own, ends with it, or with the last of
        several trials at once: whose it is cannot be told.
        """
        if not self._trials:
            self._before = _descendants() if self._is_reaper else set()
        self._trials += 1
        try:
            yield
        finally:
            self._trials -= 1
            if self._is_reaper and not self._trials:
                self._end_all()
                self._bury_unclaimed()

    def _end_all(self) -> None:
        until = time.monotonic() + _LONGEST
        while _end(_descendants() - self._before) and time.monotonic() < until:
            time.sleep(_PAUSE)

    def _bury_unclaimed(self) -> None:
        """Wait for orphans that died, as init would; later, for who started a child may yet wait for it."""
        dead = {one for one in _descendants() if one.is_over}
        for one in dead & self._unclaimed:
            _wait_for(one)
        self._unclaimed = dead


def _end(processes: set[_Process]) -> bool:
    """SIGKILL those that are in other groups; whether there were any that lived."""
    own = os.getpgrp()
    strays = [one for one in processes if one.group != own]
    for one in strays:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)
        _wait_for(one)
    return not all(one.is_over for one in strays)


def _wait_for(one: _Process) -> None:
    with suppress(ChildProcessError):
        os.waitpid(one.pid, os.WNOHANG)


def _descendants() -> set[_Process]:
    """Every process below this one; of dead ones those that nobody has waited for."""
    try:  # mostly there is none, and this says so at once
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[_Process] = set()
    parents = [os.getpid()]
    while parents:
        for pid in _children(parents.pop()):
            one = _look_up(pid)
            if one is not None:
                found.add(one)
                parents.append(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, listed.read_text().split())
    return found


def _look_up(pid: int) -> _Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return _Process(pid, int(fields[19]), int(fields[2]), fields[0] in "ZXx")
