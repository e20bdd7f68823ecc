"""Who is told of a study's events: each event at least once, in order, by one process at a time."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation, steering
from hpo.worker import notifier
from hpo.worker.notifier import Notifier
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.queue import events
from tests.support.clock import shift
from tests.support.receiver import Receiver
from tests.support.shared import Opener, lose, reopen

SPEC: dict[str, Any] = {
    "study": "s",
    "objective": "m",
    "direction": "minimize",
    "sampler": "random",
    "budget": {"trials": 10},
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
}
HOOK = {"webhook": "HPO_NOTIFY_URL", "retry": 30}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    monkeypatch.setenv("HPO_NOTIFY_URL", made.url)
    monkeypatch.setattr(notifier, "TIMEOUT", 120.0)  # an answer that is held comes when the test says so
    yield made
    made.answering.set()
    made.stop()


def make(database: Database, tmp_path: Path, **changes: Any) -> StudyRow:
    spec = parse_spec({**SPEC, "notify": [HOOK], **changes})
    return creation.create_or_continue(database, spec, Settings(artifacts=tmp_path.as_uri()))[0]


def work(row: StudyRow, party: Opener) -> None:
    """A storm of failures, a better and a worse result, a lost worker, and the end of nine tickets in ten."""
    one, two = party(row, "one"), party(row, "two")
    for unlucky in (one, two) * 3:  # neither so often that it were at fault
        unlucky.begin()
        unlucky.writer.fail("ValueError: password=hunter2")
    one.finish_one(3.0)
    one.finish_one(4.0)
    claim, _ = one.begin()
    lose(one.database, claim.lease, "its worker died")
    one.finish_one(2.0)


def test_failures_that_a_result_parts_are_no_storm(database: Database, tmp_path: Path, party: Opener) -> None:
    row = make(database, tmp_path)
    one, two = party(row, "one"), party(row, "two")
    for unlucky in (one, two, one, two):
        unlucky.begin()
        unlucky.writer.fail("ValueError: no luck")
    two.finish_one(3.0)
    one.begin()
    one.writer.fail("ValueError: no luck")
    assert [event.what for event in database.read(events.of_study, "s")] == [
        "create",
        *["failed"] * 4,
        "best",
        "failed",
    ]


TOLD = ["failing", "best", "lost", "best", "nearly", "end"]


def test_a_receiver_that_was_away_gets_every_event_in_order_and_repeats_with_the_same_id(
    database: Database, tmp_path: Path, party: Opener, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    row = make(database, tmp_path)
    mine = Notifier(database, 0.1)
    with caplog.at_level(logging.WARNING):
        work(row, party)
        assert mine.look("s") == 1, "nobody is there"
        receiver.start()
        assert mine.look("s") == 1, "it is too early for another try"
        assert not receiver.got
        shift(31)
        receiver.answers = [500, 302]
        for _ in range(2):
            assert mine.look("s") == 1
            shift(31)
        assert len(set(receiver.ids)) == 1, "what was not taken comes again, as the same"
        assert mine.look("s") == 0
        receiver.stop()
        steering.stop(database, row)
        assert mine.look("s") == 1
        receiver.start()
        shift(31)
        assert mine.look("s") == 0
    assert receiver.events == TOLD
    assert receiver.ids[2:] == sorted(set(receiver.ids), key=lambda one: int(one.rpartition("-")[2]))
    texts = [told["text"] for _, told, _ in receiver.got[2:]]
    assert texts == [
        "s: 5 attempts have failed one after the other, the last of trial 4",
        "s: trial 6 is the best so far, with 3",
        "s: worker one was lost, with trial 8; others go on with it",
        "s: trial 8 is the best so far, with 2",
        "s: 90% of the budget is spent",
        "s has ended: stopped by hand",
    ]
    assert "hunter2" not in str(receiver.got)
    assert "secret-of-the-hook" not in caplog.text


def test_one_sends_at_a_time_and_another_takes_over_when_it_dies(
    database: Database, url: str, tmp_path: Path, party: Opener, receiver: Receiver
) -> None:
    """While the answer is awaited nobody else sends; who never gets it is followed by another, same id."""
    row = make(database, tmp_path)
    party(row, "one").finish_one()
    receiver.start().answering.clear()
    dying = threading.Thread(target=Notifier(database, 0.1).look)
    dying.start()
    assert receiver.arrived.wait(120)
    other = reopen(url)
    second = Notifier(other, 0.1)
    assert second.look("s") == 0
    assert len(receiver.got) == 1
    shift(notifier.HELD + 1)
    receiver.answering.set()
    assert second.look("s") == 0
    dying.join(120)
    other.close()
    assert receiver.events == ["best"]
    assert len(set(receiver.ids)) == 1


def test_each_service_gets_its_own_form_and_only_what_it_asked_for(
    database: Database, tmp_path: Path, party: Opener, receiver: Receiver
) -> None:
    receiver.start()
    forms = [{**HOOK, "form": form, "on": ["best"]} for form in ("slack", "discord", "ntfy")]
    told = tmp_path / "told.json"
    write = [sys.executable, "-c", f"open({str(told)!r}, 'w').write(__import__('sys').stdin.read())"]
    row = make(database, tmp_path, notify=[*forms, {"command": write, "on": ["end"]}])
    party(row, "one").finish_one(2.0)
    steering.stop(database, row)
    Notifier(database, 0.1).look("s")
    text = "s: trial 0 is the best so far, with 2"
    assert [body for _, body, _ in receiver.got] == [
        {"text": text},
        {"content": text, "allowed_mentions": {"parse": []}},
        text,
    ]
    assert not told.exists(), "a process that may run no commands leaves them to others"
    assert Notifier(database, 0.1, str(tmp_path)).look("s") == 0
    assert '"event": "end"' in told.read_text()


def test_who_is_told_can_change_at_any_time_and_hears_what_happens_from_then_on(
    database: Database, tmp_path: Path, party: Opener, receiver: Receiver
) -> None:
    receiver.start()
    one = party(make(database, tmp_path, notify=[]), "one")
    one.finish_one(3.0)
    row = make(database, tmp_path)
    one.finish_one(2.0)
    assert Notifier(database, 0.1).look("s") == 0
    assert [told["value"] for _, told, _ in receiver.got] == [2.0]
    make(database, tmp_path, notify=[])
    one.finish_one(1.0)
    assert Notifier(database, 0.1).look("s") == 0
    assert len(receiver.got) == 1
    changes = database.read(lambda connection: events.of_study(connection, row.name))
    assert [one.what for one in changes] == ["create", "best", "change", "best", "change", "best"]
