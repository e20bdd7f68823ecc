"""A trial that several processes train together: its ranks, of which the runner is the first.

The others, `python -m hpo.runner.ranks FD`, run the same objective on the next devices. They have no pipe to
the worker: what their trial asks the runner's has asked, and they hear the same answer; what it says goes
nowhere. They end with the runner, or when a trial ends before its objective does. When one of them dies
during a trial the runner dies the same death.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna

from hpo.runner import devices, messages
from hpo.runner.checkpoint import CheckpointStore
from hpo.runner.interrupt import StopFlag
from hpo.runner.link import M, Voice
from hpo.runner.process import die_with_parent, outlive_signals
from hpo.runner.processes import signal_name
from hpo.runner.session import find_objective, seed_everything
from hpo.runner.trial import RunningTrial
from hpo.runner.values import RankError, told
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import Saved

_SHARED = (
    messages.Suggest,
    messages.ShouldPrune,
    messages.ReadStudy,
    messages.ReadAttributes,
)  # all ranks hear the same answer to these
_SETTLE = 2.0  # seconds in which it is known why the connection to a rank has broken
_STUCK = 30.0  # seconds that the first may need to end when another has failed
_LONGEST = 1 << 20  # bytes of an error


@dataclass(frozen=True)
class Order:
    """What every rank of an attempt begins with."""

    boot: messages.Boot
    task: messages.Task
    beginning: messages.Beginning
    resumed: Saved | None


@dataclass(frozen=True)
class Place:
    """Which rank a process is, and where they meet: on a port of this machine, where the first listens."""

    rank: int
    size: int
    port: int
    listener: int | None = None  # a descriptor; the first rank's alone


@dataclass(eq=False)
class _Other:
    """A further rank, as the first sees it."""

    rank: int
    process: subprocess.Popen[bytes]
    connection: Connection
    done: threading.Event = field(default_factory=threading.Event)  # its objective has ended, or it has

    def send(self, message: Any) -> None:
        """Tell it, if it is there: that it is gone is noticed elsewhere."""
        with suppress(OSError):
            self.connection.send(message)


class FirstRank:
    """Has further ranks train beside this process for a block of the objective.

    Where they come to its end as well, they stay for the next trial.
    """

    def __init__(self, size: int) -> None:
        self.was_joined = False
        self._size = size
        self._order: Order
        self._heard: list[tuple[str, Any]] = []
        self._others: list[_Other] = []
        self._errors: list[str] = []
        self._has_failed, self._is_over = threading.Event(), threading.Event()
        self._is_over.set()

    def of(self, order: Order, voice: Voice) -> Self:
        """The ranks of this attempt."""
        self._order, self._heard, self.was_joined = order, [], False
        voice.on_answer = self._pass_on
        return self

    def __enter__(self) -> Place:
        if self.was_joined:
            raise RuntimeError("the ranks of a trial are joined once: by one `with joined(trial)`")
        self.was_joined = True
        self._errors.clear()
        self._has_failed.clear()
        self._is_over.clear()
        if any(other.process.poll() is not None for other in self._others):
            self._end()
        self._others = self._others or [self._start(rank) for rank in range(1, self._size)]
        listener = socket.create_server(("127.0.0.1", 0))
        place = Place(0, self._size, listener.getsockname()[1], listener.detach())
        for other in self._others:
            other.done.clear()
            for message in (self._order, replace(place, rank=other.rank, listener=None), *self._heard):
                other.send(message)
        return place

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError):  # perhaps that another is gone
            self._has_failed.wait(_SETTLE)
        self._is_over.set()
        may_stay = error is None or isinstance(error, optuna.TrialPruned)
        if not all(may_stay and other.done.wait(_SETTLE) for other in self._others):
            self._end()
        if isinstance(error, RuntimeError) and self._errors:
            raise RankError(self._errors[0]) from error

    def _end(self) -> None:
        for other in self._others:
            other.process.kill()
            other.process.wait()
        self._others = []

    def _start(self, rank: int) -> _Other:
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 -- our own module
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        other = _Other(rank, process, ours)
        threading.Thread(target=self._watch, args=(other,), daemon=True).start()
        return other

    def _pass_on(self, kind: type, answer: Any) -> None:
        if kind in _SHARED:
            self._heard.append((kind.__name__, answer))
            if not self._is_over.is_set():
                for other in self._others:
                    other.send(self._heard[-1])

    def _watch(self, other: _Other) -> None:
        """Hear of another's end: of its error, or of its death, which becomes this process's own."""
        with suppress(OSError, EOFError):
            while True:
                text = other.connection.recv_bytes(_LONGEST).decode()
                if text and not self._is_over.is_set():
                    self._fail(f"on rank {other.rank} of {self._size}: {text}")
                other.done.set()
        status = other.process.wait()
        other.done.set()
        other.connection.close()
        if not self._is_over.is_set() and not self._errors:
            how = f"died by {signal_name(-status)}" if status < 0 else f"left with status {status}"
            _say(f"rank {other.rank} of {self._size} {how}, and this attempt ends with it")
            if status < 0:
                deaf = -status in (signal.SIGTERM, signal.SIGINT)
                os.kill(os.getpid(), signal.SIGKILL if deaf else -status)
            os._exit(status)

    def _fail(self, text: str) -> None:
        self._errors.append(text)
        self._has_failed.set()
        if not self._is_over.wait(_STUCK):
            _say(text)
            os._exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
    sys.stderr.flush()


class _Echo(Voice):
    """What a further rank's objective says goes nowhere; it hears what the first has heard."""

    def __init__(self, connection: Connection) -> None:
        self.orders: queue.SimpleQueue[Order | Place] = queue.SimpleQueue()
        self._answers: dict[str, queue.SimpleQueue[Any]] = {}
        self._connection = connection
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                if isinstance(message, Order):
                    self._answers = {kind.__name__: queue.SimpleQueue() for kind in _SHARED}
                if isinstance(message, Order | Place):
                    self.orders.put(message)
                else:
                    self._answers[message[0]].put(message[1])
        os._exit(1)  # the first is gone

    def post(self, kind: type[M], *fields: Any) -> None:
        pass

    def check(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def ask(self, kind: type[M], *fields: Any) -> Any:
        return self._answers[kind.__name__].get() if kind in _SHARED else kind is messages.FileStored


class _Seen(CheckpointStore):
    """The checkpoints of a rank that saves none."""

    def save(self, state: dict[str, Any], step: int) -> None:
        pass


def _follow(voice: _Echo) -> None:
    """Run the objective as one of the further ranks."""
    order, place = voice.orders.get(), voice.orders.get()
    assert isinstance(order, Order)
    assert isinstance(place, Place)
    boot, task, served = order.boot, order.task, order.boot.served
    store = ArtifactStore(served.artifacts)
    objective = find_objective(served, Path(boot.code))
    devices.set_threads(served.threads)
    trial = RunningTrial(
        task,
        order.beginning,
        served=served,
        device=boot.device if boot.device == "cpu" else f"cuda:{place.rank}",
        link=voice,
        stop=StopFlag(),
        checkpoint=_Seen(store, task.folder, task.attempt, order.resumed),
        store=store,
        ranks=nullcontext(place),
    )
    seed_everything(task.seed)
    with suppress(optuna.TrialPruned):
        objective.call(trial)


def main(descriptor: int) -> None:
    """Entry point of a further rank; `descriptor` is its end of a pipe to the first."""
    outlive_signals(StopFlag())
    die_with_parent()
    faulthandler.enable()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # the first warns
    connection = Connection(descriptor)
    voice = _Echo(connection)
    try:
        while True:
            _follow(voice)
            connection.send_bytes(b"")
    except BaseException as error:
        with suppress(OSError):
            connection.send_bytes(told(error).encode()[-_LONGEST:])
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    from hpo.runner import ranks  # what comes over the pipe is of this module's name

    ranks.main(int(sys.argv[1]))
