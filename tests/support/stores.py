"""Fixtures on top of a package's own `url`: an emptied database, and workers that join it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database.engine import Database
from storage.database.records import StudyRow
from tests.support import clock
from tests.support.shared import Opener, Party, empty, reopen


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The empty database, on a clock that stands, and that tests may shift: `tests.support.clock`."""
    opened = reopen(url)
    empty(opened)
    clock.stand()
    yield opened
    clock.right()
    opened.close()


@pytest.fixture
def party(url: str, database: Database) -> Iterator[Opener]:
    """`party(study, name)` is one more worker."""
    made: list[Party] = []

    def join(study: StudyRow, name: str = "w", **options: Any) -> Party:
        made.append(Party(url, study, name, **options))
        return made[-1]

    yield join
    for one in made:
        one.close()
