"""`hpo wait`: its exit code says what happened, whoever runs the study."""

from __future__ import annotations

import json

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


@pytest.fixture(scope="module")
def ended(shared_place: Workplace) -> Workplace:
    """One study whose trials all succeed, started while somebody waits; one where every other trial fails."""
    fine = shared_place.study("fine", budget={"trials": 3})
    shared_place.look("create", fine.name).check()
    with shared_place.start(
        "wait", "fine", "--for", "trials=3", "--timeout", "2m", "--format", "json"
    ) as waiting:
        shared_place.run(fine).check()
        told = waiting.wait().check().json
        assert (told["happened"], told["done"], told["failed"]) == ("trials=3", 3, 0)
    shared_place.run(shared_place.study("odd", ODD_ONES_FAIL, budget={"trials": 3}))
    return shared_place


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
def test_the_exit_code_says_what_happened(study: str, what: str, code: int, ended: Workplace) -> None:
    ended.look("wait", study, "--for", what).check(code)


def test_the_time_may_be_over_first(place: Workplace) -> None:
    place.look("create", place.study("s").name).check()
    late = place.look("wait", "s", "--timeout", "0.1s").check(ExitCode.TIMEOUT)
    assert "the time is over: s is " in late.err


def test_events_go_on_from_a_cursor_and_a_receiver_that_is_away_is_waited_for(place: Workplace) -> None:
    """Each change once, whenever the reader breaks off; of a run alone every event arrives, none twice."""
    receiver = Receiver()
    spec = place.study("s", notify={"webhook": "HPO_NOTIFY_URL", "retry": 0.1}, budget={"trials": 3})
    place.look("create", spec.name).check()
    first = place.look("events", "s", "--format", "json").check().json
    assert [event["what"] for event in first] == ["create"]
    follow = ("events", "s", "--follow", "--format", "json", "--since", str(first[-1]["id"]))
    options = {"env": {"HPO_NOTIFY_URL": receiver.url}}
    with place.start(*follow) as reader, place.start("run", spec.name, "--no-report", **options) as run:
        run.wait_for("receivers of news cannot be reached")
        receiver.start()
        run.wait(120).check()
        seen = [json.loads(line) for line in reader.wait().check().out.splitlines()]
    receiver.stop()
    assert [event["what"] for event in seen] == [*["best"] * (len(seen) - 1), "end"]
    assert receiver.events == [event["what"] for event in seen]
    assert [int(one.rpartition("-")[2]) for one in receiver.ids] == [event["id"] for event in seen]
    assert first + seen == place.look("events", "s", "--format", "json").check().json
    middle = place.look("events", "s", "--format", "json", "--since", str(seen[0]["id"])).check().json
    assert middle == seen[1:]
    place.look("events", "nothing", "--follow").check(ExitCode.NOT_FOUND)
