"""Workers as detached processes of this machine, which outlive the shell and can be found from any other."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.errors import HpoError, UserError
from hpo.launch.base import (
    LaunchedWorker,
    Order,
    WorkerLife,
    last_lines,
    left,
    new_directory,
    outputs,
    read_beside,
)
from hpo.worker.devices import find_gpus
from hpo.worker.identity import host_key, is_alive, process_started

_OPTIONS = ("logs",)  # directory for the workers' output
_POLL = 0.1  # seconds between looks at workers that are leaving

# Each worker runs under a shell that writes down how it ended: nobody else is there to ask for the status of
# a detached process. The shell outlives SIGTERM to its group, waits for the worker, then notes and leaves.
_NOTE_THE_END = 'trap : TERM INT HUP; "$@"; echo $? >"$0.part" && mv "$0.part" "$0"'


class LocalLauncher:
    """`--on local`. The handle has the directory of the output, and each worker's pid with its start time, so
    that a reused pid is never taken for the worker."""

    name = "local"
    crosses_machines = False

    def submit(self, order: Order) -> dict[str, Any]:
        """Start the workers, each in a session of its own."""
        order.check_options(self.name, _OPTIONS)
        order.storage_url()  # in the environment that the workers inherit
        if not order.code.is_dir():
            raise UserError(f"--code {order.code}: there is no such directory")
        shell = shutil.which("sh")
        if shell is None:
            raise HpoError("there is no `sh` on this machine, which `--on local` needs")
        gpus = gpus_of_each(order)
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        directory = new_directory(
            Path(order.options.get("logs") or state / "hpo" / "launches"), order, "logs"
        )
        started = []
        for index in range(order.workers):
            command = [sys.executable, "-P", "-m", "hpo", *order.arguments(gpus=gpus[index])]
            with (directory / f"worker-{index}.log").open("wb") as output:
                process = subprocess.Popen(  # noqa: S603 -- our own command
                    [shell, "-c", _NOTE_THE_END, str(_exit_file(directory, index)), *command],
                    cwd=order.code,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.append({"pid": process.pid, "started": process_started(process.pid) or 0.0})
        return {
            "host": socket.gethostname(),
            "host_key": host_key(),
            "directory": str(directory),
            "workers": started,
        }

    def status(self, handle: Mapping[str, Any]) -> list[LaunchedWorker]:
        """Each worker's state; unknown from another machine."""
        return [_look(handle, index) for index in range(len(handle["workers"]))]

    def logs(self, handle: Mapping[str, Any], worker: int | None, lines: int) -> str:
        """The last lines of the workers' output."""
        directory = Path(handle["directory"])
        if not directory.is_dir():
            raise HpoError(f"the output of these workers is on {handle['host']}, in {directory}")
        count = len(handle["workers"])
        return outputs(worker, count, lambda index: last_lines(directory / f"worker-{index}.log", lines))

    def stop(self, handle: Mapping[str, Any], grace: float) -> None:
        """SIGTERM to each worker, SIGKILL to what is left after `grace` seconds."""
        if handle["host_key"] != host_key():
            raise HpoError(_elsewhere(handle))
        going = [worker for worker in handle["workers"] if is_alive(worker["pid"], worker["started"])]
        for worker in going:
            _signal(worker, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while going and time.monotonic() < deadline:
            time.sleep(_POLL)
            going = [worker for worker in going if is_alive(worker["pid"], worker["started"])]
        for worker in going:  # a worker's runners end with it
            _signal(worker, signal.SIGKILL)


def _signal(worker: Mapping[str, Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker["pid"], number)


def _look(handle: Mapping[str, Any], index: int) -> LaunchedWorker:
    worker = handle["workers"][index]
    if handle["host_key"] == host_key() and is_alive(worker["pid"], worker["started"]):
        return LaunchedWorker(index, WorkerLife.RUNNING, f"pid {worker['pid']}")
    try:
        status = int(read_beside(_exit_file(Path(handle["directory"]), index)))
    except (OSError, ValueError):
        if handle["host_key"] != host_key():
            return LaunchedWorker(index, WorkerLife.UNKNOWN, f"on {handle['host']}")
        return LaunchedWorker(index, WorkerLife.FAILED, "was killed")
    return left(index, status)


def _elsewhere(handle: Mapping[str, Any]) -> str:
    if handle["host"] == socket.gethostname():
        return "these workers ran before this machine was restarted, or beside it in a container"
    return f"these workers are on {handle['host']}; stop them there, or stop the study: every worker follows"


def _exit_file(directory: Path, index: int) -> Path:
    return directory / f"worker-{index}.exit"


def gpus_of_each(order: Order) -> list[str]:
    """What `--gpus` says for each worker: cards shared by as many as fit, or whole ones."""
    if not order.gpus_per_worker:
        return ["none"] * order.workers
    cards = [gpu.uuid for gpu in find_gpus()]
    if order.gpus_per_worker < 1:
        sharing = int(1 / order.gpus_per_worker)
        groups = [[card] for _ in range(sharing) for card in cards]  # every card before any twice
    else:
        size = int(order.gpus_per_worker)
        groups = [cards[i : i + size] for i in range(0, len(cards) - size + 1, size)]
    if len(groups) < order.workers:
        raise UserError(
            f"--gpus-per-worker {order.gpus_per_worker:g}: this machine has {len(cards)} GPUs, "
            f"enough for {len(groups)} such workers, not {order.workers}"
        )
    return [",".join(group) for group in groups[: order.workers]]


LAUNCHER = LocalLauncher()
