"""A runner and its broker in one process: the pipe is real, and so are the threads; no process is started."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.runner.channel import Channel, Mailbox
from hpo.runner.interrupt import StopFlag
from hpo.runner.link import Link
from hpo.runner.messages import Boot, Broken, Ready, Task
from hpo.runner.session import Session
from hpo.spec import StudySpec
from hpo.worker.broker import Broker
from hpo.worker.code import CodeGuard
from hpo.worker.desk import Desk, read
from hpo.worker.events import Ended
from hpo.worker.repeats import ServedRepeats
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.records import Claim, NothingToClaim, StudyRow
from tests.support.shared import LEASE, Party
from tests.support.waiting import wait_until


class BrokeredRunner:
    """One runner of a worker (`party`) whose loop does nothing but hear it.

    Args:
        party: the worker.
        study: as stored.
        code: directory of the objective.
        allow: other code than the study's may run.
        broker: of a runner beside this one; None: one of its own.
    """

    def __init__(
        self,
        party: Party,
        study: StudyRow,
        code: Path,
        *,
        allow: bool = False,
        broker: Broker | None = None,
        runner: int = 0,
    ) -> None:
        self.party = party
        self.study = study
        self._ordered = 0  # events of the broker before the last order
        self.broker = broker or Broker(party.database, party.id, LEASE, lambda: None)
        ours, theirs = socket.socketpair()
        serve = ServedStudy if study.repeats_of is None else ServedRepeats
        served = serve(party.database, study, StudySpec.model_validate(study.spec))
        self.desk = Desk(runner, Mailbox(ours), served, "cpu")
        self.stop = StopFlag()
        self.link = Link(Channel(theirs.detach()), self.stop, on_end=lambda: None)
        self.session = Session(Boot(served.as_served(), "cpu", str(code)), self.link, self.stop)
        self.desk.guard = CodeGuard(study, self.session.code, allow=allow)
        self.broker.seat(self.desk)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    @property
    def database(self) -> Database:
        return self.party.database

    def claim(self) -> Claim:
        """Have a ticket claimed; it is begun, and not run."""
        before = self.desk.held
        self.order()
        wait_until(lambda: self.desk.held not in (before, None), what="a claim")
        self.task()
        assert self.desk.held is not None
        return self.desk.held.claim

    def order(self, alone: bool | None = None) -> None:
        self._ordered = len(self.broker.events)
        self.broker.order([self.desk], alone)

    def task(self) -> Task | None:
        """What the broker hands out; None when there is nothing.

        Raises:
            HpoError: this runner cannot work.
        """
        wait_until(
            lambda: not self.link.orders.empty() or self.said(NothingToClaim | Broken),
            what="a task or an event",
        )
        broken = self.said(Broken)
        if broken:
            raise HpoError(broken[0].why)
        if self.link.orders.empty():
            return None
        order = self.link.orders.get()
        assert isinstance(order, Task)
        return order

    def run_one(self) -> Ended:
        """Claim a ticket, run it, and return how it ended."""
        self.order()
        task = self.task()
        assert task is not None, self.said(NothingToClaim)
        self.session.run(task)
        wait_until(lambda: self.said(Ended), what="the attempt's end")
        ended = self.said(Ended)[-1]
        assert isinstance(ended, Ended)
        return ended

    def said(self, kind: Any) -> list[Any]:
        """The broker's events of a kind, of this runner, since the last order."""
        events = list(self.broker.events)[self._ordered :]  # left there for the broker's other desks
        return [event for desk, event in events if desk is self.desk and isinstance(event, kind)]

    def close(self) -> None:
        self._over.set()
        self._thread.join(120)
        self.broker.close(hurry=True)
        self.desk.mailbox.close()

    def _hear(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.desk.mailbox, selectors.EVENT_READ)
            while not self._over.is_set():
                waiting.select(0.05)
                self.desk.mailbox.flush()
                try:
                    messages = [read(content)[1] for content in self.desk.mailbox.receive()]
                except EOFError:
                    return
                for message in messages:
                    if not isinstance(message, Ready | Broken):
                        self.broker.hear(self.desk, message)
