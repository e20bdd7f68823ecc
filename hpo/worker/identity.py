"""Who a worker is: host and process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


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
    """Equal for two processes exactly when one can look up the other's pid: same boot, same pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot, namespace = f"{socket.gethostname()}-{psutil.boot_time():.0f}", ""
    return f"{boot} {namespace}".strip()


def process_started(pid: int) -> float | None:
    """When the process of this pid started (seconds since the epoch); None when there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid at that start time still runs (a reused pid does not count)."""
    now = process_started(pid)
    return now is not None and abs(now - started) < 2.0
