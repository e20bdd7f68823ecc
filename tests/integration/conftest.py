"""Races are staged on PostgreSQL: one holds a lock, the other starts and is seen to wait, then is let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from storage.database.engine import Database
from storage.database.migrate import open_database
from tests.support.pg import PgServer
from tests.support.stores import database, party
from tests.support.waiting import wait_until

__all__ = ["database", "party", "stage", "url"]


@pytest.fixture(scope="package")
def url(pg_server: PgServer) -> Iterator[str]:
    """A migrated database, shared by these tests; `database` empties it for each."""
    made = pg_server.create_database()
    open_database(made).close()
    yield made
    pg_server.drop_database(made)


class Stage:
    """Two at once: `held` keeps a transaction open; `other` runs beside it."""

    def __init__(self, server: PgServer, url: str) -> None:
        self._server = server
        self._url = url
        self._pool = ThreadPoolExecutor(4)
        self._started: list[Future[Any]] = []

    @contextmanager
    def holding(self, opened: Database, verb: Callable[[Any], Any]) -> Iterator[Any]:
        """`verb` has run, and its transaction is open until the block ends."""
        with opened.transaction() as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield verb(connection)

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        """Run `call` beside the test."""
        self._started.append(self._pool.submit(call))
        return self._started[-1]

    def wait_until_blocked(self, count: int = 1) -> None:
        """Until PostgreSQL reports that so many connections wait for a lock another holds.

        What a started call raises instead of waiting is raised here.
        """

        def blocked() -> bool:
            for call in self._started:
                if call.done():
                    call.result()
            return self._server.blocked(self._url) >= count

        wait_until(blocked, what=f"{count} connections wait")

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def stage(pg_server: PgServer, url: str) -> Iterator[Stage]:
    made = Stage(pg_server, url)
    yield made
    made.close()
