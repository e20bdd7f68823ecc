"""What every launcher takes and gives: an order, a handle, the state of each launched worker."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpo.errors import HpoError, NotFoundError, UserError
from hpo.files import file_name
from hpo.spec.notifying import VARIABLES
from hpo.spec.problems import nearest
from storage.files.local_files import LocalFiles

if TYPE_CHECKING:
    from storage.database.engine import Database

MAX_WORKERS = 10_000  # of one launch
LAUNCHERS = ("local", "ray", "slurm")
STORAGE_VARIABLE = "HPO_STORAGE"  # where a worker looks for the storage URL

# What a worker needs of the submitter's environment on another machine: our settings and libpq's.
_TRAVELS = ("HPO_ARTIFACTS", "HPO_LEASE", "HPO_GRACE")


class WorkerLife(StrEnum):
    """State of one launched worker as its launcher sees it."""

    WAITING = "waiting"  # queued: for resources, or to be started again
    RUNNING = "running"
    ENDED = "ended"  # went in good order: the study ended, or it was stopped
    FAILED = "failed"  # its command failed, or it was killed
    UNKNOWN = "unknown"  # cannot be seen from here


@dataclass(frozen=True)
class Order:
    """Which workers to start, and with what.

    Attributes:
        study: the study they serve.
        workers: how many.
        code: directory that the objective's path is relative to; it must exist where the workers run.
        runners: trials at once in each worker; None: one for each of its GPUs, else of its cores.
        gpus_per_worker: GPUs of each worker; a fraction shares a card; 0: on the CPU.
        cpus_per_worker: cores of each worker; None: the launcher's default.
        options: the launcher's own, as given with `--option NAME=VALUE`.
        worker_arguments: passed on to `hpo worker` as they are.
    """

    study: str
    workers: int
    code: Path
    runners: int | None = None
    gpus_per_worker: float = 0.0
    cpus_per_worker: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    worker_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise UserError(f"--workers must be between 1 and {MAX_WORKERS:,}, got {self.workers:,}")
        if self.runners is not None and self.runners < 1:
            raise UserError(f"--runners must be at least 1, got {self.runners}")
        if not 0 <= self.gpus_per_worker <= 1024:  # NaN is not either
            raise UserError(f"--gpus-per-worker must be between 0 and 1024, got {self.gpus_per_worker:g}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise UserError(
                f"--gpus-per-worker: a fraction of one card, or whole cards; got {self.gpus_per_worker:g}"
            )
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker <= 65_536:
            raise UserError(
                f"--cpus-per-worker must be above 0 and at most 65536, got {self.cpus_per_worker:g}"
            )

    @property
    def runners_per_worker(self) -> int:
        """Trials at once in each worker."""
        return self.runners or max(1, int(self.gpus_per_worker or self.cpus_per_worker or 1))

    def arguments(self, *, gpus: str | None = None, code: Path | None = None) -> list[str]:
        """The words after `hpo` that start one worker; nothing secret is among them.

        Args:
            gpus: what `--gpus` says; None: all that the launcher leaves visible, or none on the CPU.
            code: the objective's directory where the worker runs, if it is another one there.
        """
        chosen = gpus or ("all" if self.gpus_per_worker else "none")
        words = ["worker", self.study, "--gpus", chosen, "--runners", str(self.runners_per_worker)]
        return [*words, "--code", str(code or self.code), *self.worker_arguments]

    def storage_url(self) -> str:
        """The storage URL, from the environment; it is never put on a command line or into a handle.

        Raises:
            UserError: the variable is not set.
        """
        url = os.environ.get(STORAGE_VARIABLE)
        if not url:
            raise UserError(f"{STORAGE_VARIABLE} is not set; it should hold the storage URL for the workers")
        return url

    def environment(self) -> dict[str, str]:
        """What a worker on another machine needs of this environment; secrets, so keep them out of sight.

        `--option env=NAME,NAME` adds variables to it, for a store that wants credentials, say.
        """
        more = [name.strip() for name in self.options.get("env", "").split(",") if name.strip()]
        for name in more:
            if name not in os.environ:
                raise UserError(f"--option env={name}: there is no such variable in this environment")
        found = {
            name: value
            for name, value in os.environ.items()
            if name in (*_TRAVELS, *more) or name.startswith(("PG", VARIABLES))
        }
        return {**found, STORAGE_VARIABLE: self.storage_url()}

    def check_options(self, launcher: str, known: Collection[str]) -> None:
        """Refuse options that the launcher does not have.

        Raises:
            UserError: with the names there are, the nearest one first.
        """
        for name in self.options:
            if name not in known:
                raise UserError(
                    f"--option {name}: {launcher} has no such option{nearest(name, known)} "
                    f"(it has {', '.join(sorted(known))})"
                )

    def whole_option(self, name: str, default: int, least: int, most: int) -> int:
        """An option that is a whole number within these limits.

        Raises:
            UserError: it is another.
        """
        text = self.options.get(name, str(default))
        if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
            raise UserError(f"--option {name}={text}: write a whole number from {least} to {most}")
        return int(text)

    def chosen_option(self, name: str, *words: str) -> str:
        """An option that is one of these words, by default the first.

        Raises:
            UserError: it is none of them.
        """
        text = self.options.get(name, words[0])
        if text not in words:
            raise UserError(f"--option {name}={text}: it is {' or '.join(words)}")
        return text


@dataclass(frozen=True)
class LaunchedWorker:
    """One worker of a launch, as its launcher sees it."""

    index: int
    state: WorkerLife
    detail: str = ""  # pid, node, why it waits or failed


class Launcher(Protocol):
    """Starts and stops `hpo worker`, somewhere. Handles are JSON, hold no secret, and work from any shell."""

    name: str
    crosses_machines: bool  # its workers may run where this machine's files are not

    def submit(self, order: Order) -> dict[str, Any]:
        """Start the workers and return without waiting for them.

        Raises:
            UserError: an option or resource that cannot be had. HpoError: it cannot start anything now.
        """
        ...

    def status(self, handle: Mapping[str, Any]) -> list[LaunchedWorker]:
        """Each worker's state, in the order of their indices; never raises because one cannot be seen."""
        ...

    def logs(self, handle: Mapping[str, Any], worker: int | None, lines: int) -> str:
        """The last lines of one worker's output, or of all of them under headings.

        Raises:
            NotFoundError: no such worker. HpoError: the output cannot be reached from here.
        """
        ...

    def stop(self, handle: Mapping[str, Any], grace: float) -> None:
        """SIGTERM, so that workers checkpoint and give their tickets back; what is left after `grace` s ends.

        Raises:
            HpoError: they cannot be reached from here; says from where.
        """
        ...


def hand_over(database: Database) -> None:
    """Have workers that this process launches find the database: by its environment, which they inherit."""
    url = database.url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(str(url.database)).absolute()))
    os.environ[STORAGE_VARIABLE] = url.render_as_string(hide_password=False)


def find(name: str) -> Launcher:
    """The launcher of that name; its module and what that needs are imported only now.

    Raises:
        UserError: no such launcher, or its extra is not installed.
    """
    if name not in LAUNCHERS:
        there = ", ".join(LAUNCHERS)
        raise UserError(f"--on {name}: no such launcher{nearest(name, LAUNCHERS)} (there are {there})")
    try:
        module = import_module(f"hpo.launch.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hpo"):
            raise
        raise UserError(
            f"--on {name} needs the package {error.name}, which is not installed: pip install 'hpo[{name}]'"
        ) from error
    launcher: Launcher = module.LAUNCHER
    return launcher


def new_directory(parent: Path, order: Order, option: str) -> Path:
    """A directory for the output of a new launch, below `parent`, that its owner alone can read.

    Raises:
        HpoError: it cannot be made; `option` is what names another place.
    """
    name = file_name(order.study)[:80]
    directory = parent.absolute() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    try:
        directory.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise HpoError(
            f"cannot make {directory} for the workers' output: {error.strerror}; "
            f"name another place with --option {option}=DIR"
        ) from error
    return directory


def read_beside(file: Path) -> bytes:
    """What a worker left in its launch's folder; a link or a pipe that a trial put there is not opened.

    Raises:
        OSError: it is not there, or no regular file.
    """
    return LocalFiles(file.parent).read(file.name)


def last_lines(file: Path, lines: int) -> str:
    """The last lines of a worker's output; nothing before it has started."""
    try:
        return tail(read_beside(file).decode(errors="replace"), lines)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be shown: {error.strerror}\n"


def outputs(worker: int | None, count: int, output: Callable[[int], str]) -> str:
    """The `output` of one worker, or under headings that of all `count` of a launch.

    Raises:
        NotFoundError: no such worker.
    """
    if worker is None:
        return "".join(f"--- worker {index}\n{output(index)}" for index in range(count))
    if not 0 <= worker < count:
        raise NotFoundError(f"there is no worker {worker}: this launch has 0 to {count - 1}")
    return output(worker)


def left(index: int, status: int, where: str = "") -> LaunchedWorker:
    """A worker that has ended with this exit status, as a shell counts it; `where` it ran."""
    if status == 0:
        return LaunchedWorker(index, WorkerLife.ENDED, where)
    how = f"died by {signal.Signals(status - 128).name}" if status > 128 else f"exit status {status}"
    return LaunchedWorker(index, WorkerLife.FAILED, f"{how}, {where}" if where else how)


def tail(text: str, lines: int) -> str:
    """The last lines of a text, each with its line end."""
    return "".join(f"{line}\n" for line in text.splitlines()[-lines:]) if lines > 0 else ""
