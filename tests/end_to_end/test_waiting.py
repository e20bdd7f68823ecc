"""`hpo wait`: its exit code says what happened, whoever runs the study."""

from __future__ import annotations

import pytest

from hpo.errors import ExitCode
from tests.end_to_end.workplace import Workplace

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
