"""Who a worker is: host and process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpo.runner.processes import look_up

_PROC = Path("/proc/self/stat").exists()  # Linux


@dataclass(frozen=True)
class Identity:
    """One start of one worker. Two workers may share a name; `id` tells them apart."""

    id: str
    name: str
    host: str
    host_key: str
    pid: int
    pid_started: float


def identify(worker_id: str, name: str | None = None) -> Identity:
    """This process as a worker; the default name is `host:pid`."""
    host, pid = socket.gethostname(), os.getpid()
    return Identity(worker_id, name or f"{host}:{pid}", host, host_key(), pid, process_started(pid) or 0.0)


def host_key() -> str:
    """Equal for two processes exactly when one can look up the other by pid and start: same boot, same
    namespaces of pids and of time (which shifts the start ticks).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        kinds = [kind for kind in ("pid", "time") if Path(f"/proc/self/ns/{kind}").exists()]
        namespaces = "/".join(str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds)
    except OSError:  # not Linux
        return f"{socket.gethostname()}-{psutil.boot_time():.0f}"
    return f"{boot}/{namespaces}"


def process_started(pid: int) -> float | None:
    """When the process of this pid started; None when there is none. Only good to be compared for equality.

    In ticks of the kernel since boot: a time of day would move with every step of the wall clock, so that
    processes of one host would take each other for dead.
    """
    if _PROC:
        found = look_up(pid)
        return None if found is None or found.is_over else found.started
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid at that start still runs (a reused pid does not count)."""
    return process_started(pid) == started
