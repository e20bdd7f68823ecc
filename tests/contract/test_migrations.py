"""The tables are made once, however many processes start on an empty database at the same moment."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa

from storage import migrate
from storage.errors import NoTablesError, SchemaError
from storage.migrate import VERSION_TABLE, open_database
from storage.tables import metadata

PROCESSES = 6
_START = """
import sys
from storage.errors import StudyExistsError
from storage.migrate import open_database
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


def test_the_migrations_make_the_tables_that_the_code_declares(storage_url: str) -> None:
    database = open_database(storage_url)
    found = sa.inspect(database.engine)
    for table in metadata.sorted_tables:
        assert {c["name"] for c in found.get_columns(table.name)} == set(table.columns.keys()), table.name
        declared = {index.name for index in table.indexes}
        assert declared <= {index["name"] for index in found.get_indexes(table.name)}, table.name
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
