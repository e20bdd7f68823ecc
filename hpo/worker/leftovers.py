"""What runners start: how it is marked, and how what they left behind is found and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import psutil

from hpo.runner.processes import Process, children, end, look_up

MARK = "HPO_RUNNER"  # in the environment of a runner, and so of what it starts: WORKER-ID/RUNNER
# Where `hpo` is imported from. Our processes find it here and never in the working directory (-P), where a
# user's own hpo.py or storage.py may lie.
_ROOT = Path(__file__).resolve().parents[2]
_LONGEST, _PAUSE = 2.0, 0.02  # seconds; what is being ended may still start something


def importing_hpo() -> dict[str, str]:
    """The environment of a process of ours that is started with -P, without what leads to the database."""
    environment = {name: value for name, value in os.environ.items() if not _is_secret(name)}
    if _ROOT.name not in ("site-packages", "dist-packages"):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{others}" if others else str(_ROOT)
    return environment


def _is_secret(name: str) -> bool:
    named = ("HPO_STORAGE", "HPO_TOKEN", "HPO_DASHBOARD_TOKEN", "HPO_DASHBOARD_VIEW_TOKEN")
    return name in named or name.startswith(("PG", "HPO_NOTIFY_"))


def end_leftovers(mark: str, sessions: Sequence[tuple[int, float]] = ()) -> int:
    """SIGKILL every process of this machine with a mark that begins so, or in one of these sessions.

    Returns how many there were, when they are gone or after two seconds (a process may hang in the kernel).
    The mark is a worker's id and a slash for all its runners, or all of one runner's. A session is known by
    pid and start ticks of the runner that leads it, for those that lost their environment.
    """
    until = time.monotonic() + _LONGEST
    left = partial(_left, f"{MARK}={mark}".encode(), dict(sessions))
    found = left(psutil.pids())
    ended: set[int] = set()
    while found:
        ended.update(found)
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= until:
            break
        time.sleep(_PAUSE)
        # A look at every process is dear where there are thousands: only when these are gone, and at the end.
        waiting = time.monotonic() < until
        found = (left(found) if waiting else []) or left(psutil.pids())
    return len(ended)


def end_orphans(of: tuple[int, float], worker_id: str, others: Collection[int], *, living: bool) -> None:
    """What a runner that has ended left to this process, its reaper: SIGKILL it, and wait for what is dead.

    However it has lost its environment, session and parent, by which `end_leftovers` knows it. `of`: the
    runner's pid and start ticks; what began earlier is not of it, nor are the `others`, by pid, which this
    worker has started, nor what lives and bears its mark. `living`: end also what is not dead by itself.
    """
    mark, until, session = f"{MARK}={worker_id}/".encode(), time.monotonic() + _LONGEST, os.getsid(0)

    def is_its(one: Process) -> bool:
        if one.session == session or one.started < of[1] or one.pid in others:
            return False
        return one.is_over or (living and not _has(one.pid, mark))

    while end(one for one in children("self") if is_its(one)) and time.monotonic() < until:
        time.sleep(_PAUSE)


def _left(mark: bytes, sessions: dict[int, float], among: Iterable[int]) -> list[int]:
    found = []
    for pid in among:
        process = look_up(pid)
        if process is None or process.is_over or pid == os.getpid():
            continue
        if _is_of(process, sessions) or _has(pid, mark):
            found.append(pid)
    return found


def _is_of(process: Process, sessions: dict[int, float]) -> bool:
    """Whether it is in one of the sessions; the pid of a leader is not given again while a session lives."""
    began = sessions.get(process.session)
    if began is None or process.started < began:
        return False
    leader = look_up(process.session)
    return leader is None or leader.is_over or leader.started == began


def _has(pid: int, mark: bytes) -> bool:
    try:
        return any(one.startswith(mark) for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # it has just ended, or is somebody else's
        return False
