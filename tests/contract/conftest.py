"""One suite, every store: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.database.migrate import open_database
from tests.support.brokered import doing, make_study, open_runner, runner, study
from tests.support.stores import database, party

__all__ = ["database", "doing", "make_study", "open_runner", "party", "runner", "study", "url"]


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
