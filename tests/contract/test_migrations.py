"""The tables are made once, however many processes start on an empty database at the same moment."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from storage.database import engine as engines
from storage.database import migrate, optuna_tables
from storage.database.errors import NoTablesError, SchemaError
from storage.database.migrate import VERSION_TABLE, open_database
from storage.database.records import AttemptState, StudyState, TicketState, WorkerState
from storage.database.tables import attempt, study, ticket
from tests.support.pg import PgServer
from tests.support.waiting import wait_until

PROCESSES = 6


class DeadlockError(Exception):
    """As the driver says it."""

    sqlstate = "40P01"


_START = """
import sys
from storage.database import engine
engine.IMPATIENT_SECONDS = 60.0  # the machine may be busy
from storage.database.errors import StudyExistsError
from storage.database.migrate import open_database
from tests.support.shared import make_study
print("ready", flush=True)
sys.stdin.readline()
database = open_database(sys.argv[1])
try:
    make_study(database, 5)
    print("created")
except StudyExistsError:
    print("found")
"""


def test_six_processes_start_on_an_empty_database_at_once(storage_url: str) -> None:
    """One study, five tickets, nobody crashes."""
    family = [
        subprocess.Popen(
            [sys.executable, "-c", _START, storage_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in family:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in family:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in family]
    assert [process.returncode for process in family] == [0] * PROCESSES, [err for _, err in ends]
    assert sorted(out.strip() for out, _ in ends) == ["created"] + ["found"] * (PROCESSES - 1)
    database = open_database(storage_url)
    try:
        count = database.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM hpo_ticket")))
    finally:
        database.close()
    assert count == 5


def test_the_newest_migration_is_the_one_that_the_code_demands() -> None:
    assert migrate._scripts().get_current_head() == migrate.HEAD


def _told(described: dict[str, Any]) -> str:
    told = {name: _told(one) if isinstance(one, dict) else str(one) for name, one in described.items()}
    return str(sorted(told.items()))


def _everything(url: str) -> dict[str, Any]:
    """Every table as the database describes it, in whatever order, and what the tables of versions say."""
    database = open_database(url)
    with database.engine.connect() as connection:
        look = sa.inspect(connection)
        found: dict[str, Any] = {
            table: [
                sorted(map(_told, part))
                for part in (
                    look.get_columns(table),
                    [look.get_pk_constraint(table)],
                    look.get_foreign_keys(table),
                    look.get_unique_constraints(table),
                    look.get_check_constraints(table),
                    look.get_indexes(table),
                )
            ]
            for table in look.get_table_names()
        }
        for name in (VERSION_TABLE, optuna_tables.VERSION_TABLE, "version_info"):
            found[f"rows of {name}"] = connection.execute(sa.text(f"SELECT * FROM {name}")).all()
    database.close()
    return found


def test_an_empty_database_gets_the_tables_that_the_scripts_make(
    storage_url: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made at once there, without alembic: ours and Optuna's."""
    other = f"sqlite:///{tmp_path / 'other.db'}"
    if not storage_url.startswith("sqlite"):
        other = request.getfixturevalue("pg_server").create_database()
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "upgrade", None)
        made = _everything(storage_url)
    monkeypatch.setattr(migrate, "_made", lambda _url: False)
    assert made == _everything(other)
    assert {"hpo_ticket", "trials", "version_info"} < set(made)


def test_tables_of_another_optuna_are_left_to_it(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_tables, "VERSION", "v0.0.0.a")
    assert not optuna_tables.are_newest()
    assert not migrate._made(engines.parse_url(sqlite_url))


_OLD_ROWS = """
INSERT INTO hpo_study (id, uid, name, optuna_study_id, state, spec, digest, seed, maximize, retry_lost,
  retry_failed, artifacts, created_at, seconds_used)
  VALUES (1, 'u', 'old', 1, 'running', '{}', 'd', 0, 1, 3, 0, 'a', 0.1, 0);
INSERT INTO hpo_ticket (id, study_id, number, state, priority, cell, attempt, lost, failed, rejected,
  trial_id) VALUES (7, 1, 0, 'failed', 2, 0, 1, 0, 1, 3, 5);
INSERT INTO hpo_attempt (id, ticket_id, number, trial_id, worker_id, runner, device, state, started_at, error)
  VALUES (9, 7, 1, 5, 'w', 0, 'cpu', 'failed', 1234567890.123456, 'why')
"""


def of_a_version_before(url: str, revision: str = "0002", rows: str = _OLD_ROWS) -> None:
    """The tables of a revision with these rows: by default a study, a ticket and an attempt."""
    parsed = engines.parse_url(url)
    with migrate._plain_engine(parsed) as plain, plain.connect() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in rows.split(";"):
            connection.exec_driver_sql(statement)
        connection.commit()


_STUDIES_OF_SECONDS = """
INSERT INTO hpo_study (id, uid, name, optuna_study_id, state, spec, digest, seed, maximize, retry_lost,
  retry_failed, artifacts, created_at, seconds_used, clock_started_at)
  VALUES (2, 'v', 'resting', 2, 'running', '{}', 'd', 0, 1, 3, 0, 'a', 0.1, 5, 1000),
  (3, 'w', 'at work', 3, 'running', '{}', 'd', 0, 1, 3, 0, 'a', 0.1, 5, 1000);
INSERT INTO hpo_ticket (id, study_id, number, state, priority, cell, attempt, lost, failed, rejected)
  VALUES (8, 2, 0, 'queued', 0, 0, 1, 0, 0, 0), (9, 3, 0, 'running', 0, 0, 1, 0, 0, 0);
INSERT INTO hpo_attempt (id, ticket_id, number, worker_id, runner, device, state, started_at, ended_at)
  VALUES (10, 8, 1, 'w', 0, 'cpu', 'released', 1000, 1020), (11, 9, 1, 'w', 0, 'cpu', 'running', 1000, NULL)
"""


def test_seconds_that_went_on_while_nobody_worked_are_taken_back(storage_url: str) -> None:
    """Version 0.1 let them count after Ctrl-C; what runs at the upgrade goes on counting."""
    of_a_version_before(storage_url, rows=_STUDIES_OF_SECONDS)
    upgraded = open_database(storage_url)
    query = sa.select(study.c.seconds_used, study.c.clock_started_at).where(study.c.id > 1)
    kept = upgraded.read(lambda c: c.execute(query.order_by(study.c.id)).all())
    upgraded.close()
    assert [tuple(row) for row in kept] == [(25.0, None), (5.0, 1000.0)]


@pytest.mark.parametrize("revision", ["0002", "0004"])  # version 0.1, and what came since
def test_a_migration_keeps_every_row_and_every_index(storage_url: str, revision: str) -> None:
    """A rebuilt table must not take the attempts with it that hang on its tickets."""
    of_a_version_before(storage_url, revision)
    database = open_database(storage_url)
    with database.transaction() as connection:
        kept = connection.execute(
            sa.select(ticket.c.id, ticket.c.priority, ticket.c.rejected, ticket.c.alone, ticket.c.slot)
        )
        assert [tuple(row) for row in kept] == [(7, 2, 3, 0, 0)]
        tried = connection.execute(sa.select(attempt.c.id, attempt.c.started_at, attempt.c.error))
        assert [tuple(row) for row in tried] == [(9, 1234567890.123456, "why")]
        connection.execute(ticket.update().values(state=TicketState.PARKED))
        connection.execute(attempt.update().values(state=AttemptState.PARKED))
        connection.execute(study.delete())
        assert connection.scalar(sa.select(sa.func.count()).select_from(attempt)) == 0, "by its foreign keys"
    found = sa.inspect(database.engine)
    for table in (ticket, attempt):
        declared = {index.name for index in table.indexes}
        assert declared <= {index["name"] for index in found.get_indexes(table.name)}
        assert found.get_unique_constraints(table.name)
    database.close()


@pytest.mark.postgres
def test_an_upgrade_and_a_heartbeat_of_an_older_worker_do_not_wait_for_each_other(
    pg_server: PgServer,
) -> None:
    """The heartbeat holds its tickets, and goes on to its worker's row."""
    url = pg_server.create_database()
    of_a_version_before(url)
    older = sa.create_engine(engines.parse_url(url), poolclass=sa.NullPool)
    with ThreadPoolExecutor(1) as beside, older.connect() as beat:
        beat.execute(sa.text("SELECT id FROM hpo_ticket FOR UPDATE")).all()
        upgrading = beside.submit(open_database, url)
        wait_until(lambda: pg_server.blocked(url) >= 1, what="the upgrade waits")
        held = beat.execute(
            sa.text(
                "SELECT relation::regclass::text FROM pg_locks WHERE granted "
                "AND relation = 'hpo_worker'::regclass AND pid != pg_backend_pid()"
            )
        ).all()
        beat.execute(sa.text("UPDATE hpo_worker SET reason = 'beat'"))
        beat.commit()
        upgrading.result(120).close()
    assert held == [], "nobody's heartbeat waits for an upgrade that waits for it"
    pg_server.drop_database(url)


def test_an_upgrade_that_the_server_ended_for_a_deadlock_is_tried_again(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_version_before(storage_url)
    upgrade, tries = migrate.upgrade, []

    def ended_once(url: sa.URL) -> None:
        tries.append(url)
        if len(tries) == 1:
            raise sa.exc.OperationalError("LOCK TABLE", None, DeadlockError("deadlock detected"))
        upgrade(url)

    monkeypatch.setattr(migrate, "upgrade", ended_once)
    open_database(storage_url).close()
    assert len(tries) == 2


def test_the_database_accepts_every_state_and_no_other(storage_url: str) -> None:
    states = {"ticket": TicketState, "attempt": AttemptState, "study": StudyState, "worker": WorkerState}
    database = open_database(storage_url)
    found = sa.inspect(database.engine)
    for table, known in states.items():
        (check,) = found.get_check_constraints(f"hpo_{table}")
        assert set(re.findall(r"'(\w+)'", check["sqltext"])) == set(known), table
    database.close()


def test_a_migration_that_dies_half_way_changes_nothing(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken up again by whoever comes next."""
    of_a_version_before(storage_url)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", die)
        with pytest.raises(KeyboardInterrupt):
            open_database(storage_url)
    database = open_database(storage_url)
    with database.transaction() as connection:
        assert connection.scalar(sa.select(attempt.c.error)) == "why"
    assert not [name for name in sa.inspect(database.engine).get_table_names() if "tmp" in name]
    database.close()


def test_plain_optuna_keeps_its_own_version_table(storage_url: str) -> None:
    open_database(storage_url).close()
    names = sa.inspect(sa.create_engine(storage_url)).get_table_names()
    assert {"alembic_version", VERSION_TABLE, "trials", "hpo_ticket"} <= set(names)


def test_a_database_of_a_newer_version_is_refused(storage_url: str) -> None:
    database = open_database(storage_url)
    with database.transaction() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    with pytest.raises(SchemaError, match=r"newer version .* Upgrade hpo"):
        open_database(storage_url)


def test_looking_at_an_older_database_says_how_to_upgrade_it(storage_url: str) -> None:
    """Its studies are there: "no studies yet" would be a lie, and looking does not change tables."""
    database = open_database(storage_url)
    with database.transaction() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
    database.close()
    with pytest.raises(SchemaError, match=r"older version .*schema 0001.* `hpo db upgrade`"):
        open_database(storage_url, create=False)


def test_an_absent_database_is_not_made_by_looking(storage_url: str) -> None:
    with pytest.raises(NoTablesError, match="no studies"):
        migrate.open_database(storage_url, create=False)
