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

from hpo.runner import messages
from hpo.runner.channel import Channel
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from storage.database.errors import LeaseLostError

log = logging.getLogger(__name__)
M = TypeVar("M", bound=messages.Numbered)


class ForkedError(RuntimeError):
    """A process that the objective forked used its parent's trial."""


class Link:
    """Says what an attempt has to say, and hears the worker in a thread of its own.

    What speaks or waits for an attempt raises LeaseLostError where that may write no more, and Interrupted
    where it must stop. `serial`: of the only attempt that it is for.
    """

    def __init__(
        self,
        channel: Channel,
        stop: StopFlag,
        on_end: Callable[[], Any] = lambda: os._exit(1),
        first: Link | None = None,
    ) -> None:
        self.stop = stop
        self._lanes: list[Link] = [] if first is None else first._lanes  # all of the process
        self._slot = len(self._lanes)
        self._lanes.append(self)
        self.orders: queue.SimpleQueue[messages.Boot | messages.Task | messages.Quit] = queue.SimpleQueue()
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
        if first is None:
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def lane(self) -> Link:
        """A further lane's, over the same pipe; its stop flag tells of that lane alone."""
        return Link(self._channel, StopFlag(), first=self)

    @property
    def is_leaving(self) -> bool:
        """Whether the worker has told this runner to stop at the next chance."""
        return self._stop.urgency is Urgency.NOW

    @property
    def is_away(self) -> bool:
        """Whether the database is away, as far as the worker has said."""
        return self._away

    def lose_worker(self) -> None:
        """The worker is gone, and this process goes on: nothing is waited for, nothing is handed out."""
        with self._changed:
            self._away = True
            self._stop.raise_to(Urgency.NOW)
            self.orders.put(messages.Quit())
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Leave the worker, whatever is under way: what was not said whole is not said."""
        self._channel.hang_up()

    def begin(self, serial: int) -> Voice:
        """What is said from now on is of this task: by the session, and by its objective with this voice."""
        with self._changed:
            self._serial, self._error = serial, None
            self._committed = self._said
            self._answers.clear()
            self._changed.notify_all()
        return Voice(self, self._stop, serial)

    def tell(self, message: messages.ToWorker, *, more: bool = False) -> None:
        """Say something that is no attempt's; where `more` is to be said soon, with that or at a `send`."""
        self._here()
        self._channel.send(messages.to_worker(message, self._slot), more=more)

    def send(self) -> None:
        """Send what lanes have said and nobody waits for."""
        self._channel.flush()

    def post(self, kind: type[M], *fields: Any, serial: int | None = None) -> None:
        """Say something of the attempt that will be written soon."""
        self._here()
        with self._changed:
            self._demand(serial)
            if self._away or self._said - self._committed >= messages.UNHEARD:
                self._hear_of_commits(serial)
            self._say(kind, *fields, more=True)

    def ask(self, kind: Callable[..., messages.Numbered], *fields: Any, serial: int | None = None) -> Any:
        """Say something of the attempt, and wait for the answer."""
        return self.answer(self.question(kind, *fields, serial=serial), serial=serial)

    def question(
        self, kind: Callable[..., messages.Numbered], *fields: Any, serial: int | None = None
    ) -> int:
        """Ask something, and do not wait: `answer` does, by the number returned."""
        self._here()
        with self._changed:
            self._demand(serial)
            return self._say(kind, *fields, more=True)

    def answer(self, number: int, *, serial: int | None = None) -> Any:
        """The answer to a question, waited for."""
        self._here()
        with self._changed:
            self._demand(serial)
            self._wait(lambda: number in self._answers, serial)
            return self._taken(number)

    def ask_at_last(
        self, kind: Callable[..., messages.Numbered], *, when_unheard: Callable[[], None], after: float
    ) -> Any:
        """As `ask`, for an attempt's end: also of one that is told to stop, or may write no more.

        `when_unheard` is called once when the database is away, or there is no answer within `after` seconds.

        Raises:
            Interrupted: told to stop at once, and the database is away.
        """
        self._here()
        with self._changed:
            number = self._say(kind)
            heard = self._changed.wait_for(lambda: number in self._answers or self._away, after)
        if not heard or number not in self._answers:
            when_unheard()
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or (self.is_leaving and self.is_away))
            if number not in self._answers:
                raise Interrupted("told to leave while the database is away")
            return self._taken(number)

    def check(self, *, serial: int | None = None) -> None:
        """See whether the attempt may go on."""
        self._here()
        with self._changed:
            self._demand(serial)
            if self._error is not None:
                raise self._error

    def flush(self, *, serial: int | None = None) -> None:
        """Wait until everything said of the attempt is committed."""
        self._here()
        with self._changed:
            self._demand(serial)
            self._hear_of_commits(serial)

    def _hear_of_commits(self, serial: int | None) -> None:
        """Wait until everything said so far is committed."""
        if self._committed < self._said:
            number = self._say(messages.Sync)
            self._wait(lambda: number in self._answers, serial)
            self._taken(number)

    def _say(self, kind: Callable[..., messages.Numbered], *fields: Any, more: bool = False) -> int:
        """Say something of the attempt; where `more` is to be said, lanes say it together."""
        content = messages.to_worker(kind(self._said + 1, self._serial, *fields), self._slot)
        self._said += 1
        self._channel.send(content, more=more and len(self._lanes) > 1)
        return self._said

    def _taken(self, number: int) -> Any:
        value = self._answers.pop(number)
        if isinstance(value, Exception):
            raise value
        return value

    def _demand(self, serial: int | None) -> None:
        """Whoever speaks for an attempt that is over is a thread that it left behind."""
        if serial is not None and serial != self._serial:
            raise Interrupted("this trial is over")

    def hold(self, until: Callable[[], bool]) -> None:
        """Wait for something that others tell of by `nudge`.

        Raises:
            Interrupted: the attempt must stop, at the end of its epoch too.
        """
        with self._changed:
            self._changed.wait_for(lambda: until() or self._stop.urgency is not Urgency.NONE)
            if not until():
                raise Interrupted(self._stop.urgency.name)

    def nudge(self) -> None:
        """Have who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, until: Callable[[], bool], serial: int | None) -> None:
        """Hold on until something is so, or the attempt may not go on."""
        self._channel.flush()
        waits_for = self._serial if serial is None else serial
        self._changed.wait_for(
            lambda: until() or self._error is not None or self._must_stop or self._serial != waits_for
        )
        self._demand(waits_for)
        if self._error is not None:
            raise self._error
        if self._must_stop and not until():
            raise Interrupted(self._stop.urgency.name)

    @property
    def _must_stop(self) -> bool:
        """Whether there is nothing to wait for: what is told to stop at once still hears of its commits."""
        return self._stop.urgency is Urgency.LOST or (self.is_leaving and self.is_away)

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
                slot, message = messages.from_worker(self._channel.receive())
            except (EOFError, OSError):
                self._on_end()
                return
            self._lanes[slot]._hear(message)

    def _hear(self, message: messages.ToRunner) -> None:
        with self._changed:
            match message:
                case messages.Boot() | messages.Task() | messages.Quit():
                    self.orders.put(message)
                case messages.Answer():
                    self._answers[message.number] = message.value
                    self._committed = max(self._committed, message.number)
                case messages.Away():
                    if message.away and not self._away:
                        log.warning("database away: reports and results wait until it is back")
                    self._away = message.away
                case messages.Refused() if message.serial == self._serial:
                    self._error = self._error or message.error
                    if isinstance(message.error, LeaseLostError):
                        self._stop.raise_to(Urgency.LOST)
                case messages.Abandon() if message.serial == self._serial:
                    self._stop.overdue = message.overdue
                    self._stop.raise_to(Urgency.LOST)
                case messages.Drain():
                    self._stop.raise_to(Urgency.NOW if message.now else Urgency.END_OF_EPOCH)
            self._changed.notify_all()


class Voice:
    """What one attempt's objective says. When the attempt is over it says nothing more: not for the next one.

    That it may write no more reaches the objective as `Interrupted`, which `except Exception` cannot swallow.
    As does that it must stop.
    """

    def __init__(self, link: Link, stop: StopFlag, serial: int) -> None:
        self._link, self._stop, self._serial = link, stop, serial
        self.on_answer: Callable[[type, Any], None] = lambda _kind, _answer: None

    def post(self, kind: type[M], *fields: Any) -> None:
        """Say something that will be written soon."""
        self._speak(self._link.post, kind, *fields)

    def ask(self, kind: type[M], *fields: Any) -> Any:
        """Say something, and wait for the answer."""
        answer = self._speak(self._link.ask, kind, *fields)
        self.on_answer(kind, answer)
        return answer

    def question(self, kind: type[M], *fields: Any) -> int:
        """Ask something whose answer is waited for later."""
        number: int = self._speak(self._link.question, kind, *fields)
        return number

    def answer(self, number: int) -> Any:
        """The answer to a question."""
        return self._speak(self._link.answer, number)

    def check(self) -> None:
        """See whether the attempt may go on."""
        self._speak(self._link.check)

    def flush(self) -> None:
        """Wait until everything that was said is committed."""
        self._speak(self._link.flush)

    def _speak(self, verb: Callable[..., Any], *what: Any) -> Any:
        try:
            return verb(*what, serial=self._serial)
        except LeaseLostError as error:
            self._stop.raise_to(Urgency.LOST)
            raise Interrupted(str(error)) from error
