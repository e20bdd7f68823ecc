"""A runner's side of the pipe: what the objective's thread says, and what comes back.

A report returns before its commit. So what may be seen only once it is committed waits for that: a checkpoint
(`flush`), a pruner's decision and a result (`ask`). Of an attempt's messages at most `UNHEARD` are under way,
and none more while the database is away.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from hpo.runner.channel import Channel
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from hpo.runner.messages import (
    UNHEARD,
    Abandon,
    Answer,
    Away,
    Boot,
    Drain,
    Numbered,
    Quit,
    Refused,
    Sync,
    Task,
    ToRunner,
    ToWorker,
    from_worker,
    to_worker,
)
from storage.database.errors import LeaseLostError

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Numbered)


class ForkedError(RuntimeError):
    """A process that the objective forked used its parent's trial."""


class Link:
    """Says what an attempt has to say, and hears the worker in a thread of its own."""

    def __init__(
        self, channel: Channel, stop: StopFlag, on_end: Callable[[], Any] = lambda: os._exit(1)
    ) -> None:
        self.orders: queue.SimpleQueue[Boot | Task | Quit] = queue.SimpleQueue()
        self._channel = channel
        self._stop = stop
        self._on_end = on_end
        self._is_forked = False
        self._changed = threading.Condition()
        self._serial = 0
        self._said = self._committed = 0  # numbers of messages
        self._away = False
        self._answers: dict[int, Any] = {}
        self._error: Exception | None = None
        os.register_at_fork(after_in_child=self._forked)
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    @property
    def is_leaving(self) -> bool:
        """Whether the worker has told this runner to stop at the next chance."""
        return self._stop.urgency is Urgency.NOW

    @property
    def is_away(self) -> bool:
        """Whether the database is away, as far as the worker has said."""
        return self._away

    def begin(self, serial: int) -> None:
        """What is said from now on is of this task."""
        with self._changed:
            self._serial, self._error = serial, None
            self._committed = self._said
            self._answers.clear()

    def tell(self, message: ToWorker) -> None:
        """Say something that is no attempt's."""
        self._here()
        self._channel.send(to_worker(message))

    def post(self, kind: type[M], *fields: Any) -> None:
        """Say something of the attempt, that will be written soon.

        Raises:
            LeaseLostError: the attempt may write no more.
            Interrupted: it must stop, and this cannot be said now.
        """
        self._here()
        with self._changed:
            if self._away or self._said - self._committed >= UNHEARD:
                self._hear_of_commits()
            self._say(kind, *fields)

    def ask(self, kind: type[M], *fields: Any) -> Any:
        """Say something of the attempt, and wait for the answer.

        Raises:
            LeaseLostError: the attempt may write no more.
            Interrupted: it must stop, and there is no answer yet.
        """
        self._here()
        with self._changed:
            number = self._say(kind, *fields)
            self._wait(lambda: number in self._answers)
            return self._taken(number)

    def ask_at_last(self, kind: type[M], *fields: Any, when_unheard: Callable[[], None], after: float) -> Any:
        """As `ask`, for an attempt's end: also of one that is told to stop, or may write no more.

        Args:
            kind: what is said.
            fields: of the message.
            when_unheard: called once when the database is away, or there is no answer within `after` seconds.
            after: seconds.

        Raises:
            Interrupted: told to stop at once, and the database is away.
        """
        self._here()
        with self._changed:
            number = self._say(kind, *fields)
            heard = self._changed.wait_for(lambda: number in self._answers or self._away, after)
        if not heard or number not in self._answers:
            when_unheard()
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or (self.is_leaving and self._away))
            if number not in self._answers:
                raise Interrupted("told to leave while the database is away")
            return self._taken(number)

    def check(self) -> None:
        """See whether the attempt may go on.

        Raises:
            LeaseLostError: the attempt may write no more.
        """
        self._here()
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Wait until everything said of the attempt is committed.

        Raises:
            LeaseLostError: the attempt may write no more.
            Interrupted: it must stop at once.
        """
        self._here()
        with self._changed:
            self._hear_of_commits()

    def _hear_of_commits(self) -> None:
        """Wait until everything said so far is committed."""
        if self._committed < self._said:
            number = self._say(Sync)
            self._wait(lambda: number in self._answers)
            self._taken(number)

    def _say(self, kind: type[M], *fields: Any) -> int:
        content = to_worker(kind(self._said + 1, self._serial, *fields))
        self._said += 1
        self._channel.send(content)
        return self._said

    def _taken(self, number: int) -> Any:
        value = self._answers.pop(number)
        if isinstance(value, Exception):
            raise value
        return value

    def _wait(self, until: Callable[[], bool]) -> None:
        """Hold on until something is so, or the attempt may not go on."""
        self._changed.wait_for(lambda: until() or self._error is not None or self._must_stop)
        if self._error is not None:
            raise self._error
        if self._must_stop and not until():
            raise Interrupted(self._stop.urgency.name)

    @property
    def _must_stop(self) -> bool:
        """Whether there is nothing to wait for: what is told to stop at once still hears of its commits."""
        return self._stop.urgency is Urgency.LOST or (self.is_leaving and self._away)

    def _here(self) -> None:
        if self._is_forked:
            raise ForkedError(
                "this process was forked by the objective, and a trial belongs to the process it was given "
                "to: hand values back to that, and report them there"
            )

    def _forked(self) -> None:
        self._is_forked = True
        self._channel.close()

    def _listen(self) -> None:
        """Hear the worker; when it is gone, so is this process."""
        while True:
            try:
                message = from_worker(self._channel.receive())
            except (EOFError, OSError):
                self._on_end()
                return
            self._hear(message)

    def _hear(self, message: ToRunner) -> None:
        with self._changed:
            match message:
                case Boot() | Task() | Quit():
                    self.orders.put(message)
                case Answer():
                    self._answers[message.number] = message.value
                    self._committed = max(self._committed, message.number)
                case Away():
                    if message.away and not self._away:
                        log.warning("database away: reports and results wait until it is back")
                    self._away = message.away
                case Refused() if message.serial == self._serial:
                    self._error = self._error or message.error
                    if isinstance(message.error, LeaseLostError):
                        self._stop.raise_to(Urgency.LOST)
                case Abandon() if message.serial == self._serial:
                    self._stop.raise_to(Urgency.LOST)
                case Drain():
                    self._stop.raise_to(Urgency.NOW if message.now else Urgency.END_OF_EPOCH)
            self._changed.notify_all()
