"""Who finds no work looks less and less often, and at once when there may be some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.worker.turns import LONGEST, POLL, Patience, Turns
from storage.database.changes import Changes
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.database.tables import witness

STUDY: Any = object()


class Clock:
    """Monotonic time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def looks(patience: Patience, clock: Clock, seconds: float) -> int:
    """How often somebody who finds nothing looks in so many seconds."""
    end, found = clock.now + seconds, 0
    while clock.now < end:
        if patience.is_over:
            found += 1
            patience.found_nothing()
        clock.now += 0.05
    return found


def test_who_finds_nothing_looks_ever_less_often_and_never_less_than_every_few_seconds() -> None:
    clock = Clock()
    patience = Patience(clock, lambda: False)
    assert looks(patience, clock, 10.0) <= 6
    later = looks(patience, clock, 100.0)
    assert 100.0 / LONGEST - 2 <= later <= 100.0 / (0.75 * LONGEST) + 2


def test_several_runners_that_look_together_wait_as_long_as_one() -> None:
    clock = Clock()
    patience = Patience(clock, lambda: False)
    for _ in range(8):
        patience.found_nothing()
    clock.now += POLL
    assert patience.is_over


def test_work_begins_the_waiting_anew() -> None:
    clock = Clock()
    patience = Patience(clock, lambda: False)
    looks(patience, clock, 60.0)
    patience.found_work()
    assert patience.is_over
    patience.found_nothing()
    clock.now += POLL
    assert patience.is_over


def test_a_change_in_the_database_is_looked_at_within_half_a_second() -> None:
    clock = Clock()
    changes = [False]
    patience = Patience(clock, lambda: changes[0])
    looks(patience, clock, 60.0)
    patience.found_nothing()
    changes[0] = True
    clock.now += POLL + 0.01
    assert patience.is_over


def test_workers_do_not_look_in_step() -> None:
    clock = Clock()
    first, second = (Patience(clock, lambda: False) for _ in range(2))
    times: list[list[float]] = [[], []]
    for _ in range(4000):
        for patience, seen in zip((first, second), times, strict=True):
            if patience.is_over:
                seen.append(clock.now)
                patience.found_nothing()
        clock.now += 0.01
    assert times[0] != times[1]


def test_a_worker_of_one_study_waits_and_looks_again_when_something_may_have_brought_work() -> None:
    clock = Clock()
    turns = Turns(STUDY, clock)
    assert turns.next(0) is STUDY
    turns.nothing(0)
    assert turns.next(0) is None
    turns.may_have_work()
    assert turns.next(0) is STUDY


def test_a_worker_is_idle_since_nothing_was_found_until_there_is_work() -> None:
    clock = Clock()
    turns = Turns(STUDY, clock)
    clock.now += 100.0
    assert turns.idle == 0.0, "nothing was asked yet"
    turns.nothing(0)
    clock.now += 5.0
    turns.nothing(1)
    turns.may_have_work()  # which somebody else may have taken
    clock.now += 5.0
    assert turns.idle == 10.0
    turns.found_work()
    assert turns.idle == 0.0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(f"sqlite:///{tmp_path / 'hpo.db'}")


def test_on_sqlite_a_commit_of_anybody_is_seen_once(database: Database) -> None:
    changes = Changes(database)
    changes.seen()
    assert not changes.seen()
    database.write(lambda connection: connection.execute(witness.insert().values(id=1, beat_at=0.0)))
    assert changes.seen()
    assert not changes.seen()
    changes.close()


def test_a_file_that_cannot_be_looked_at_has_not_changed(tmp_path: Path, database: Database) -> None:
    changes = Changes(database)
    changes.seen()
    changes.close()
    database.close()
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "hpo.db").mkdir()
    assert not changes.seen()
