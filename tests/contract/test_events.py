"""Who did what to which study: written with the act or not at all, in order, and outliving the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.errors import UserError
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation, steering
from storage.database.engine import Database, Transaction
from storage.database.errors import UnknownStudyError
from storage.database.records import StudyRow
from storage.queue import events, studies
from storage.queue.events import operator
from tests.support.shared import Opener

SPEC: dict[str, Any] = {
    "study": "s",
    "objective": "m",
    "direction": "minimize",
    "sampler": "random",
    "budget": {"trials": 4},
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
}


@pytest.fixture
def row(database: Database, tmp_path: Path) -> StudyRow:
    return creation.create(database, parse_spec(SPEC), Settings(artifacts=tmp_path.as_uri()))


def told(database: Database, name: str = "s") -> list[tuple[str, str, dict[str, Any]]]:
    found = database.read(lambda connection: events.of_study(connection, name))
    assert [one.id for one in found] == sorted(one.id for one in found)
    assert [one.at for one in found] == sorted(one.at for one in found if one.at is not None)
    return [(one.what, one.who, one.details) for one in found]


def test_every_act_is_told_in_order_with_who_did_it(
    database: Database, row: StudyRow, party: Opener, tmp_path: Path
) -> None:
    one, ci = party(row, "one"), database.acting_as("token ci")
    one.begin()
    one.writer.fail("ValueError: x")
    steering.pause(ci, row)
    steering.pause(ci, row)  # it is paused already: nothing is done
    steering.resume(ci, row)
    assert creation.enqueue(ci, row, {"x": 0.5})[0] == 1
    creation.extend(ci, row, trials=2)
    assert steering.retry_failed(ci, row) == 1
    assert steering.retry_failed(ci, row) == 0
    settings = Settings(artifacts=tmp_path.as_uri())
    changed = parse_spec({**SPEC, "limits": {"processes": 9}})
    creation.create_or_continue(ci, changed, settings)
    steering.stop(ci, row)
    steering.resume(ci, row)
    one.begin()
    assert steering.cancel(ci, row) == 1
    assert told(database)[0] == ("create", operator(), {})
    assert [(what, details) for what, who, details in told(database)[1:] if who == "token ci"] == [
        ("pause", {}),
        ("resume", {}),
        ("enqueue", {"ticket": 1, "point": {"x": 0.5}}),
        ("extend", {"trials": 2}),
        ("retry", {"trials": 1}),
        ("change", {"limits": changed.limits.model_dump()}),
        ("stop", {}),
        ("resume", {}),
        ("cancel", {"running": 1, "waiting": 0}),
    ]


def test_what_was_refused_or_rolled_back_is_not_told(database: Database, row: StudyRow) -> None:
    steering.stop(database, row)
    before = told(database)
    stopped = database.read(lambda connection: studies.get(connection, "s"))
    with pytest.raises(UserError):
        steering.pause(database, stopped)

    def fails(connection: Transaction) -> None:
        steering.note(connection, database, row, "extend")
        raise RuntimeError("after it was written")

    with pytest.raises(RuntimeError):
        database.write_once(fails)
    assert told(database) == before


def test_of_a_deleted_study_its_end_is_told(database: Database, row: StudyRow) -> None:
    """Also beside the events of another one that got its name; those of one that was renamed go with it."""
    steering.delete(database.acting_as("ada@laptop"), row)
    assert told(database) == [("delete", "ada@laptop", {})]
    again = studies.create(database, _as_new(row))
    assert [what for what, _, _ in told(database)] == ["delete", "create"]
    name = steering.set_aside(database, again)
    assert [(what, details) for what, _, details in told(database, name)][-1] == ("rename", {"before": "s"})
    with pytest.raises(UnknownStudyError):
        database.read(lambda connection: studies.get(connection, "s"))


def _as_new(row: StudyRow) -> studies.NewStudy:
    return studies.NewStudy(
        row.name, ["minimize"], row.spec, row.digest, 0, [None], False, 0, 1, None, None, 0, 0, row.artifacts
    )
