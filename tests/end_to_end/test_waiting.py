"""`hpo wait`: its exit code says what happened, whoever runs the study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from hpo.errors import ExitCode
from tests.end_to_end.workplace import Workplace
from tests.support.receiver import Receiver

ODD_ONES_FAIL = """
    def objective(trial):
        if trial.number % 2:
            raise RuntimeError("odd")
        return trial.params["x"] ** 2
"""


@dataclass
class Told:
    """What was heard while the study `fine` ran: by its receiver, and by a reader of its events."""

    receiver: Receiver
    created: list[dict[str, Any]]
    followed: list[dict[str, Any]]


@pytest.fixture(scope="module")
def told(shared_place: Workplace) -> Told:
    """One study whose trials all succeed, while somebody waits for it, somebody else reads its events,
    and its receiver is away; one where every other trial fails.
    """
    receiver = Receiver()
    fine = shared_place.study(
        "fine", notify={"webhook": "HPO_NOTIFY_URL", "retry": 0.1}, budget={"trials": 3}
    )
    shared_place.look("create", fine.name).check()
    created = shared_place.look("events", "fine", "--format", "json").check().json
    follow = ("events", "fine", "--follow", "--format", "json", "--since", str(created[-1]["id"]))
    wait = ("wait", "fine", "--for", "trials=3", "--timeout", "2m", "--format", "json")
    run = ("run", fine.name, "--runners", "1", "--no-report")
    with (
        shared_place.start(*wait) as waiting,
        shared_place.start(*follow) as reader,
        shared_place.start(*run, env={"HPO_NOTIFY_URL": receiver.url}) as running,
    ):
        running.wait_for("receivers of news cannot be reached")
        receiver.start()
        running.wait().check()
        found = waiting.wait().check().json
        followed = [json.loads(line) for line in reader.wait().check().out.splitlines()]
    receiver.stop()
    assert (found["happened"], found["done"], found["failed"]) == ("trials=3", 3, 0)
    shared_place.run(shared_place.study("odd", ODD_ONES_FAIL, budget={"trials": 3}))
    return Told(receiver, created, followed)


def test_a_receiver_that_is_away_is_waited_for_and_hears_every_event_once(told: Told) -> None:
    assert [event["what"] for event in told.followed] == [*["best"] * (len(told.followed) - 1), "end"]
    assert told.receiver.events == [event["what"] for event in told.followed]
    heard = [int(one.rpartition("-")[2]) for one in told.receiver.ids]
    assert heard == [event["id"] for event in told.followed]


def test_events_go_on_from_a_cursor(told: Told, shared_place: Workplace) -> None:
    """Each once, wherever the reader broke off."""
    assert [event["what"] for event in told.created] == ["create"]
    whole = told.created + told.followed
    assert shared_place.look("events", "fine", "--format", "json").check().json == whole
    since = ("events", "fine", "--format", "json", "--since", str(whole[1]["id"]))
    assert shared_place.look(*since).check().json == whole[2:]
    shared_place.look("events", "nothing", "--follow").check(ExitCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("study", "what", "code"),
    [
        ("fine", "end", ExitCode.DONE),
        ("fine", "trials=2", ExitCode.DONE),
        ("fine", "failure", ExitCode.FAILED),
        ("fine", "best", ExitCode.FAILED),
        ("fine", "trials=4", ExitCode.FAILED),
        ("odd", "failure", ExitCode.DONE),
        ("fine", "luck", ExitCode.BAD_INPUT),
        ("missing", "end", ExitCode.NOT_FOUND),
    ],
)
def test_the_exit_code_says_what_happened(
    study: str, what: str, code: int, told: Told, shared_place: Workplace
) -> None:
    shared_place.look("wait", study, "--for", what).check(code)


def test_the_time_may_be_over_first(place: Workplace) -> None:
    place.look("create", place.study("s").name).check()
    late = place.look("wait", "s", "--timeout", "0.1s").check(ExitCode.TIMEOUT)
    assert "the time is over: s is " in late.err
