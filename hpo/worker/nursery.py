"""How a runner's process begins: started by itself, or forked from one that has imported what it needs."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hpo.spec import StudySpec
from hpo.worker.devices import Share
from hpo.worker.leftovers import MARK, importing_hpo

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_IMPORTING, _FORKING = 60.0, 5.0  # seconds; a nursery that takes longer is given up


class Adopted:
    """A child that this process has adopted: of a `Popen`, what a worker uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it lives."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """The same, when it has ended."""
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody else in this process has waited for it
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


@dataclass(frozen=True)
class Newborn:
    """A process that computes for a study, and the worker's end of its pipe."""

    process: subprocess.Popen[bytes] | Adopted
    pipe: socket.socket
    mark: str  # in its environment, and so in that of whatever it starts


def start(
    module: str,
    worker_id: str,
    environment: Mapping[str, str] | None = None,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> Newborn:
    """Start one of our modules as a process that gets one end of a pair of sockets, and no secret."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    mark = _new_mark(worker_id)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**importing_hpo(), **(environment or {}), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
            start_new_session=True,  # Ctrl-C in the terminal is for the worker alone
        )
    return Newborn(process, ours, mark)


def start_runner(share: Share, threads: int, worker_id: str) -> Newborn:
    """Start a runner by itself."""
    return start("hpo.runner.process", worker_id, _environment(share, threads))


def _environment(share: Share, threads: int) -> dict[str, str]:
    environment = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    if share.visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = share.visible
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts
    return environment


class Nursery:
    """The process from which a worker's runners on the CPU are forked, one at a time. Nobody waits for it.

    The runners become the worker's own children: a process between dies at once, and the worker, the reaper
    of its descendants (`guarded`), adopts what it leaves. So they are waited for, and die with the worker, as
    those that it has started; and they outlive the nursery.
    """

    def __init__(self, share: Share, spec: StudySpec, worker_id: str, code: str) -> None:
        environment = _environment(share, spec.threads)
        made = start("hpo.runner.nursery", worker_id, environment, socket.SOCK_SEQPACKET)
        self._process, self._control = made.process, made.pipe
        self.worker_id = worker_id
        self._waiting: selectors.BaseSelector = selectors.SelectSelector()
        path = spec.objective_path
        named = None if path is None else [path.module, path.file, path.callable]
        self._control.send(json.dumps([named, code]).encode())
        self._control.setblocking(False)
        self._ordered: tuple[socket.socket, str] | None = None
        self._newborn: Newborn | None = None
        self._expect(_IMPORTING)

    @classmethod
    def of(
        cls, shares: Sequence[Share], spec: StudySpec | None, code: str, worker_id: str | None = None
    ) -> contextlib.AbstractContextManager[Nursery | None]:
        """One for a worker of one study with several runners on the CPU, on Linux; else None.

        What CUDA holds does not survive a fork, and one runner alone would only wait. It imports while the
        worker gets ready, so the earlier it is made, the earlier the first trial begins.
        """
        possible = sys.platform == "linux" and len(shares) > 1 and all(one.device == "cpu" for one in shares)
        if spec is None or not possible:
            return contextlib.nullcontext()
        return cls(shares[0], spec, worker_id or uuid.uuid4().hex, code)

    def watch(self, waiting: selectors.BaseSelector) -> None:
        """From its beginning on, wake whoever waits there when a runner may have come."""
        self._waiting.unregister(self._control)
        waiting.register(self._control, selectors.EVENT_READ)
        self._waiting = waiting

    def is_expecting(self) -> bool:
        """Whether a runner will come from it, and has not yet; whoever waits is woken when it comes.

        Not, if there is one to take, or there will be none: then one is started by itself.
        """
        if self._newborn is not None or self._process.returncode is not None:
            return False
        try:
            if not self._is_awaited:
                self._order()
            heard = self._control.recv(64)
        except BlockingIOError:
            if time.monotonic() < self._give_up:
                return True
            heard = b""
        except OSError:
            heard = b""
        self._expect_nothing()
        if heard == b"ready":
            return self.is_expecting()
        if self._ordered is None or not heard.isdigit():  # it is gone, or cannot hand its child over
            self.close()
            return False
        self._newborn = Newborn(Adopted(int(heard)), *self._ordered)
        self._ordered = None
        return False

    def take(self) -> Newborn | None:
        """The runner that has come, if one has."""
        taken, self._newborn = self._newborn, None
        return taken

    def close(self) -> None:
        """End it, and what nobody has taken; its runners live on."""
        if self._is_awaited:
            self._expect_nothing()
        if self._ordered is not None:
            self._ordered[0].close()
            self._ordered = None
        left = self.take()
        if left is not None:
            left.pipe.close()
            _end(left.process)
        if self._process.returncode is None:
            self._control.close()
            _end(self._process)

    def _order(self) -> None:
        ours, theirs = socket.socketpair()
        mark = _new_mark(self.worker_id)
        self._ordered = ours, mark
        self._expect(_FORKING)
        with theirs:
            socket.send_fds(self._control, [f"{MARK}={mark}".encode()], [theirs.fileno()])

    def _expect(self, seconds: float) -> None:
        self._is_awaited, self._give_up = True, time.monotonic() + seconds
        self._waiting.register(self._control, selectors.EVENT_READ)

    def _expect_nothing(self) -> None:
        self._is_awaited = False
        self._waiting.unregister(self._control)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _new_mark(worker_id: str) -> str:
    return f"{worker_id}/{uuid.uuid4().hex}"


def _end(process: subprocess.Popen[bytes] | Adopted) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _has_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, ValueError, AttributeError):
        return False
