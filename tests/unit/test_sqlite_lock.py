"""A stopped process that holds SQLite's write lock stalls all others: it is named, and ours is ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from hpo.worker.lease_keeper import LeaseKeeper
from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError
from storage.database.migrate import open_database
from storage.database.sqlite_lock import write_lock_holder

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux alone shows who holds a lock")

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'hpo.db'}")

    @sa.event.listens_for(opened.engine, "begin", insert=True)
    def hurry(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA busy_timeout=150")

    yield opened
    opened.close()


@pytest.fixture
def stopped(database: Database) -> Iterator[subprocess.Popen[str]]:
    """A process that was stopped in the middle of a write."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(database.url.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process
        process.kill()


def test_nobody_holds_the_lock_of_a_database_at_rest(database: Database) -> None:
    assert write_lock_holder(database.url) is None
    assert write_lock_holder(make_url("postgresql://ada@db/lab")) is None


def test_who_waits_is_told_which_process_to_wake(database: Database, stopped: subprocess.Popen[str]) -> None:
    assert write_lock_holder(database.url) == stopped.pid
    with pytest.raises(DatabaseUnreachableError, match=rf"is locked by process {stopped.pid}, .*kill -CONT"):
        database.once(lambda connection: None, write=True)


def test_after_a_lease_a_stopped_process_that_blocks_all_is_named(
    database: Database, stopped: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    keeper = LeaseKeeper(
        database,
        "worker",
        None,
        lease=0.1,
        interval=0.03,
        status=dict,
        wake=-1,
    )
    with caplog.at_level(logging.WARNING):
        keeper.beat()
    assert str(stopped.pid) in caplog.text
    assert "kill -CONT" in caplog.text
    assert stopped.poll() is None
