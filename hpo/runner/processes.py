"""Processes as Linux shows them under /proc, and who adopts those that lose their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


@dataclass(frozen=True)
class Process:
    """One process. Two are the same when pid and start are: a pid is given again."""

    pid: int
    started: float  # ticks since boot
    group: int = field(compare=False)
    session: int = field(compare=False)
    is_over: bool = field(compare=False)  # and nobody has waited for it yet


def look_up(pid: int) -> Process | None:
    """The process of this pid; None when there is none."""
    try:
        fields = stat_of(pid)
    except OSError:
        return None
    return Process(pid, float(fields[19]), int(fields[2]), int(fields[3]), fields[0] in "ZXx")


def stat_of(pid: int | str) -> list[str]:
    """What `/proc/PID/stat` says after the name, which may contain anything: the state is the first.

    Raises:
        OSError: there is no such process.
    """
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def signal_name(number: int) -> str:
    """`SIGKILL`; also of one that has no name here."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def children(pid: int | str) -> list[Process]:
    """What a process, `self` for this one, has started or adopted and not waited for."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, listed.read_text().split())
    return [one for one in map(look_up, found) if one is not None]


def end(processes: Iterable[Process]) -> bool:
    """SIGKILL them, and wait for those that are this process's own; whether any lived."""
    any_lived = False
    for one in processes:
        any_lived |= not one.is_over
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)
        wait_for(one)
    return any_lived


def wait_for(one: Process) -> None:
    """Bury it, if it is this process's own and dead."""
    with suppress(ChildProcessError):
        os.waitpid(one.pid, os.WNOHANG)


def become_reaper() -> None:
    """What this process's descendants leave behind becomes its own child."""
    _set_reaper(True)


@contextmanager
def reaping() -> Iterator[None]:
    """In this block, this process is that."""
    before = is_reaper()
    become_reaper()
    try:
        yield
    finally:
        _set_reaper(before)


def is_reaper() -> bool:
    """Whether this process adopts what its descendants leave behind."""
    answer = ctypes.c_int()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _set_reaper(adopting: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopting))
