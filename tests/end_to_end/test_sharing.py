"""Several processes at one study, and the dashboard beside them."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoProcess

TOGETHER = """
    import os
    import time
    from pathlib import Path

    def objective(trial):
        Path(f"seen-{os.getppid()}").touch()
        while len(list(Path(".").glob("seen-*"))) < 2:  # until both workers have begun
            time.sleep(0.02)
        return trial.params["x"] ** 2
"""


def test_a_worker_joins_a_study_that_another_process_runs(place: Workplace, storage_url: str) -> None:
    """Neither can finish its first trial before the other has begun one; the budget is met exactly."""
    place.env["HPO_STORAGE"] = storage_url
    spec = place.study("s", TOGETHER, budget={"trials": 6})
    place.look("create", spec.name).check()
    with (
        place.start("run", spec.name, "--runners", "1", "--no-report") as run,
        place.start("worker", "s", "--runners", "1", "--name", "helper") as helper,
    ):
        run.wait().check()
        joined = helper.wait().check()
    assert "the study" in joined.err
    trials = place.trials("s")
    assert [trial["state"] for trial in trials] == ["complete"] * 6
    assert {trial["attempts"] for trial in trials} == {1}
    assert len({trial["worker"] for trial in trials}) == 2
    assert "helper" in {trial["worker"] for trial in trials}
    workers = place.look("workers", "s", "--format", "json").check().json
    assert {row["state"] for row in workers} == {"left"}
    assert place.look("audit", "s", "--format", "json").check().json["holds"]


def test_two_people_who_start_the_same_study_at_once_share_it(place: Workplace, storage_url: str) -> None:
    """On an empty database: both create the tables and the study, and neither crashes."""
    place.env["HPO_STORAGE"] = storage_url
    spec = place.study("s", budget={"trials": 4})
    words = ("run", spec.name, "--runners", "1", "--no-report")
    with place.start(*words) as one, place.start(*words) as other:
        one.wait().check()
        other.wait().check()
    assert [trial["attempts"] for trial in place.trials("s")] == [1] * 4


def test_a_worker_leaves_after_its_count_of_trials(place: Workplace) -> None:
    spec = place.study("s", budget={"trials": 5})
    place.look("create", spec.name).check()
    place.hpo("worker", "s", "--runners", "2", "--count", "3").check()
    assert place.show("s")["trials"]["waiting"] == 2
    place.hpo("worker", "s", "--count", "0").check(2)


@pytest.fixture
def dashboard(place: Workplace) -> Any:
    place.look("create", place.study("s").name).check()
    with place.start("dashboard", "--port", "0") as process:
        process.wait_for("Ctrl-C ends it", 100)
        yield process


def address(process: HpoProcess) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+/\S*", process.err)
    assert found, process.err
    return found[0]


def get(url: str, **headers: str) -> int:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        with browser.open(urllib.request.Request(url, headers=headers), timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_dashboard_answers_at_the_address_it_says(dashboard: HpoProcess) -> None:
    assert get(address(dashboard)) == 200
    assert dashboard.out == ""


def test_a_page_elsewhere_cannot_reach_the_dashboard_by_another_name(dashboard: HpoProcess) -> None:
    """DNS rebinding: a name of the attacker's that leads to 127.0.0.1. Without the token nobody comes in."""
    assert get(address(dashboard).partition("?")[0]) == 401
    assert get(address(dashboard), Host="evil.example") in (400, 403, 421)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_dashboard_refuses_to_listen_to_everybody_without_a_token(host: str, place: Workplace) -> None:
    place.look("create", place.study("s").name).check()
    result = place.hpo("dashboard", "--host", host, "--port", "0", timeout=120).check(2)
    assert f"--host {host}" in result.err
    assert "Traceback" not in result.err
