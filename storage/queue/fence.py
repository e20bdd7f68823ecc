"""The fence: a stale attempt cannot write, because each write proves its lease in its own transaction.

Listeners on the session factory of Optuna's storage; none of its methods is overridden. A transaction
opened inside `Fence.transaction` checks the lease as soon as it begins, which also gives every writer
the same order of locks (ticket first). Any other transaction that wrote is checked before it commits:
ORM writes show up in the session, attributes are Core upserts that only `do_orm_execute` sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from storage.database.engine import Database, intend_to_write
from storage.database.errors import LeaseLostError
from storage.database.records import Lease
from storage.queue import leases

_fenced: ContextVar[bool] = ContextVar("fenced", default=False)


class Fence:
    """Guards one process's Optuna storage. `lease` is what its current attempt holds; None refuses all."""

    def __init__(self, database: Database) -> None:
        self.lease: Lease | None = None
        factory = database.rdb.scoped_session.session_factory
        event.listen(factory, "after_begin", self._after_begin)
        event.listen(factory, "do_orm_execute", self._on_execute)
        event.listen(factory, "before_flush", self._before_flush)
        event.listen(factory, "before_commit", self._before_commit)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Sessions begun inside check the lease first."""
        fenced = _fenced.set(True)
        try:
            with intend_to_write():
                yield
        finally:
            _fenced.reset(fenced)

    def prove(self, connection: Connection | Session) -> None:
        """Make sure that the current attempt may write in this transaction.

        Raises:
            LeaseLostError
        """
        if self.lease is None:
            raise LeaseLostError("this process runs no attempt, so it may not write")
        leases.check(connection, self.lease)

    def _after_begin(
        self, session: Session, _transaction: SessionTransaction, connection: Connection
    ) -> None:
        session.info["wrote"] = False
        session.info["proven"] = False
        if _fenced.get():
            self.prove(connection)
            session.info["proven"] = True

    def _on_execute(self, state: ORMExecuteState) -> None:
        if state.is_insert or state.is_update or state.is_delete:
            state.session.info["wrote"] = True

    def _before_flush(self, session: Session, _context: Any, _instances: Any) -> None:
        if session.new or session.deleted or any(session.is_modified(item) for item in session.dirty):
            session.info["wrote"] = True

    def _before_commit(self, session: Session) -> None:
        session.flush()
        if session.info.get("wrote") and not session.info.get("proven"):
            self.prove(session)
