"""One suite, every store: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.clock import Clock
from storage.engine import Database
from storage.migrate import open_database
from storage.records import StudyRow
from tests.support.shared import Opener, Party, empty, reopen


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database, shared by a module's tests; `database` empties it for each."""
    if request.param == "sqlite":
        made = f"sqlite:///{tmp_path_factory.mktemp('db') / 'hpo.db'}"
        open_database(made).close()
        yield made
        return
    server = request.getfixturevalue("pg_server")
    made = server.create_database()
    open_database(made).close()
    yield made
    server.drop_database(made)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The empty database, with a clock that tests may shift: `database.clock.offset`."""
    opened = reopen(url, Clock())
    empty(opened)
    yield opened
    opened.close()


@pytest.fixture
def party(url: str, database: Database) -> Iterator[Opener]:
    """`party(study, name)` is one more worker, on the clock that `database` has."""
    made: list[Party] = []

    def join(study: StudyRow, name: str = "w", **options: Any) -> Party:
        made.append(Party(url, study, name, clock=database.clock, **options))
        return made[-1]

    yield join
    for one in made:
        one.close()
