"""A failover: sessions that are still there can only read, new ones can write."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import psycopg
import pytest
import sqlalchemy as sa

from storage.database import engine
from storage.database.engine import Database
from storage.database.errors import DatabaseFaultError
from storage.database.records import TicketState
from storage.database.tables import ticket
from tests.support.pg import PgServer
from tests.support.shared import Opener, Party, make_study, reopen, ticket_row


@contextmanager
def failed_over(server: PgServer, url: str, one: Party) -> Iterator[None]:
    """Every connection that `one` has in its pool leads to a standby."""
    with server.connect() as admin:
        admin.autocommit = True
        name = psycopg.sql.Identifier(url.rpartition("/")[2])
        admin.execute(
            psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
        )
        try:
            one.database.engine.dispose()
            with one.database.engine.connect() as connection:
                assert connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
        finally:
            admin.execute(
                psycopg.sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name)
            )
    yield


def test_a_runner_goes_on_with_the_new_server(
    pg_server: PgServer, url: str, database: Database, party: Opener
) -> None:
    """Every way of writing leaves the server that can only be read."""
    one = party(make_study(database, 2))
    with failed_over(pg_server, url, one):
        claim, _ = one.begin()
    with failed_over(pg_server, url, one):
        one.writer.report(1, 0.5, {"loss": 1.0})
    with failed_over(pg_server, url, one):
        one.writer.set_attribute("user", "k", 1)
    with failed_over(pg_server, url, one):
        one.complete()
    assert ticket_row(database, claim.lease).state == TicketState.COMPLETE


def test_a_session_that_the_server_has_ended_is_made_anew_however_long_it_took(
    pg_server: PgServer, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was idle in a transaction while its machine slept: a command's patience is over by then."""
    monkeypatch.setattr(engine, "IMPATIENT_SECONDS", 0.0)
    tries: list[int] = []

    def cut_once(connection: sa.Connection) -> int | None:
        tries.append(1)
        if len(tries) == 1:
            pg_server.disconnect_clients(url)
        return connection.scalar(sa.select(1))

    assert database.read(cut_once) == 1
    assert len(tries) == 2


def test_a_deadlock_is_tried_again(url: str, database: Database) -> None:
    """Whoever the server chooses as the victim comes through at its second try."""
    make_study(database, 2)
    ids = database.read(lambda c: list(c.scalars(sa.select(ticket.c.id).order_by(ticket.c.id))))
    barrier, other = Barrier(2), reopen(url)
    tries: list[int] = []

    def lock(opened: Database, order: list[int]) -> None:
        met = False

        def both(connection: sa.Connection) -> None:
            nonlocal met
            tries.append(1)
            for number in order:
                connection.execute(sa.select(ticket).where(ticket.c.id == number).with_for_update())
                if not met:
                    met = True
                    barrier.wait(120)

        opened.write(both)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(lock, database, ids), pool.submit(lock, other, ids[::-1])]:
            done.result(120)
    other.close()
    assert len(tries) == 3


def test_a_right_that_is_missing_is_told_in_a_sentence(database: Database) -> None:
    def read_without_right(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL ROLE pg_signal_backend")
        connection.execute(sa.select(ticket))

    with pytest.raises(DatabaseFaultError, match="cannot be used: permission denied"):
        database.write(read_without_right)
