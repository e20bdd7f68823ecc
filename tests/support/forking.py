"""The real command in a process of its own, forked from one that has imported what commands need.

An `hpo run` imports for 1.5 seconds of CPU, and the suite starts hundreds. The forked process has its own
pid, session, signals, environment and files, and runs `python -m hpo` to its end as any other; but /proc
shows the words and the environment of the process it was forked from, and Python read its settings there.
PYTHONPATH is honoured, and a `sitecustomize` on it: later than Python would, after what is imported here.
"""

from __future__ import annotations

import array
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

NEEDED = (  # none of it torch, nor any thread
    "hpo.cli.view",
    "hpo.dashboard.beside",
    "hpo.report.page",
    "hpo.studies.evaluation",
    "hpo.studies.warm_start",
    "hpo.worker.asker",
    "hpo.worker.supervisor",
    "storage.history.audit",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)
_MOST = 1 << 20  # bytes of a request


class Forked:
    """A forked command: of a `Popen`, what `HpoProcess` uses."""

    def __init__(self, pid: int, ending: socket.socket, pipes: Sequence[Any]) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = pipes
        self.returncode: int | None = None
        self._ending = ending

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it lives."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._ending, selectors.EVENT_READ)
                if not waiting.select(timeout):
                    raise subprocess.TimeoutExpired("hpo", timeout or 0)
            said = self._ending.recv(64)
            assert said, "the process that commands are forked from has died"
            self.returncode = int(said)
            self._ending.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forking:
    """The process that commands are forked from: started at the first, ends with this one."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with this environment may be forked: Python reads some of it at its start."""
        return sys.platform == "linux" and _read_at_start(environment) == _read_at_start(_own_environment())

    def start(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], *, with_input: bool
    ) -> Forked:
        """`hpo WORDS`, with pipes for what it prints, and for what it reads if `with_input`."""
        control = self._started()
        ending, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out, printed = os.pipe()
        err, complained = os.pipe()
        read, given = os.pipe() if with_input else (os.open(os.devnull, os.O_RDONLY), None)
        request = json.dumps([list(words), str(cwd), dict(environment)]).encode()
        descriptors = array.array("i", [read, printed, complained, theirs.fileno()])
        control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        pid = int(control.recv(64))
        theirs.close()
        for one in (read, printed, complained):
            os.close(one)
        files = [
            None if one is None else open(one, mode, encoding="utf-8", errors="replace")  # noqa: SIM115, PTH123
            for one, mode in ((given, "w"), (out, "r"), (err, "r"))
        ]
        return Forked(pid, ending, files)

    def close(self) -> None:
        """End it; what it has forked lives on."""
        if self._process is not None and self._control is not None:
            self._control.close()
            self._process.wait(120)
            self._process = self._control = None

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.forking", str(theirs.fileno())],
                    cwd=Path(__file__).parents[2],
                    env=_own_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        return self._control


def _own_environment() -> dict[str, str]:
    from tests.support.command import hpo_environment

    return hpo_environment()


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    starts = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "OPENBLAS_", "MKL_", "PATH", "VIRTUAL_ENV")
    read = {name: value for name, value in environment.items() if name.startswith(starts)}
    read.pop("PYTHONPATH", None)  # see `_become`
    return read


def _serve(control: socket.socket) -> tuple[list[str], str]:
    """Fork for each request; returns, in the forked process, its words and its directory."""
    for name in NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a forked process would lack the other threads"
    living: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not control:
                    waiting.unregister(key.fileobj)
                    os.close(key.fd)
                    pid, ending = living.pop(key.fd)
                    _, status = os.waitpid(pid, 0)
                    with suppress(OSError), ending:
                        ending.send(str(os.waitstatus_to_exitcode(status)).encode())
                    continue
                request, descriptors, _, _ = socket.recv_fds(control, _MOST, 4)
                if not request:
                    os._exit(0)
                pid = os.fork()
                if pid == 0:
                    return _become(json.loads(request), descriptors)
                for one in descriptors[:3]:
                    os.close(one)
                pidfd = os.pidfd_open(pid)
                living[pidfd] = pid, socket.socket(fileno=descriptors[3])
                waiting.register(pidfd, selectors.EVENT_READ)
                control.send(str(pid).encode())


def _become(
    request: tuple[list[str], str, dict[str, str]], descriptors: Sequence[int]
) -> tuple[list[str], str]:
    words, cwd, environment = request
    os.setsid()
    for number, one in enumerate(descriptors[:3]):
        os.dup2(one, number)
    os.closerange(3, 1 + max(int(one.name) for one in Path("/proc/self/fd").iterdir()))
    for name, number, mode in (("stdin", 0, "rb"), ("stdout", 1, "wb"), ("stderr", 2, "wb")):
        old, raw = getattr(sys, name), open(number, mode, buffering=-1 if number == 0 else 0, closefd=False)  # noqa: SIM115
        new = io.TextIOWrapper(raw, old.encoding, old.errors, write_through=number > 0)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.modules["numpy"].random.seed()
    sys.orig_argv = [sys.executable, "-m", "hpo", *words]
    if added := environment.get("PYTHONPATH", ""):
        sys.path[1:1] = added.split(os.pathsep)
        sys.modules.pop("sitecustomize", None)
        with suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")
    return words, cwd


def main() -> None:
    """What the process does, and every process that it forks."""
    control = socket.socket(fileno=int(sys.argv[1]))
    words, cwd = _serve(control)
    control.detach()
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[0] = cwd
    sys.argv = ["hpo", *words]
    runpy.run_module("hpo", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
