"""A worker that leaves by itself: after a time without work, or at a time of day."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.reading import get_study
from hpo.wiring import open_storage
from hpo.worker.devices import plan
from hpo.worker.limits import Limits
from hpo.worker.supervisor import Worker
from hpo.worker.turns import Assignment
from tests.end_to_end.workplace import Workplace
from tests.support.waiting import wait_until

STEPWISE = """
    import time
    from pathlib import Path

    def objective(trial):
        state = trial.checkpoint.load() or {"epoch": 0}
        for epoch in range(state["epoch"] + 1, 1000):
            time.sleep(0.1)
            trial.checkpoint.save({"epoch": epoch}, epoch)
            trial.report(1 / epoch, epoch)
            Path("began").touch()
            trial.should_prune()
        return 0.0
"""


def wait_for_file(path: Path) -> None:
    wait_until(path.exists, what=f"{path.name} appears")


def test_a_worker_with_nothing_to_claim_leaves_after_its_idle_timeout(place: Workplace) -> None:
    """The study is paused: without the timeout the worker would wait for ever."""
    place.look("create", place.study("s").name).check()
    place.look("pause", "s").check()
    left = place.hpo("worker", "s", "--runners", "2", "--idle-timeout", "1s").check()
    assert "nothing to claim" in left.err
    (worker,) = place.look("workers", "--format", "json").check().json
    assert worker["state"] == "left"


def test_at_the_time_it_was_given_a_worker_checkpoints_and_gives_its_ticket_back(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this process is set ahead once the trial has begun."""
    place.look("create", place.study("s", STEPWISE, budget={"trials": 1}).name).check()
    monkeypatch.chdir(place.path)
    settings = Settings(f"sqlite:///{place.path / 'hpo.db'}")
    database = open_storage(settings)
    row = get_study(database, "s")
    worker = Worker(
        database,
        settings,
        Assignment(row, StudySpec.model_validate(row.spec)),
        str(place.path),
        plan("none", 1, 1),
        limits=Limits(until=time.time() + 3600),
    )
    with ThreadPoolExecutor() as pool:
        leaving = pool.submit(worker.run)
        wait_for_file(place.path / "began")
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + 7200)
        outcome = leaving.result(120)
    database.close()
    assert (outcome.exit_code, "--until" in outcome.why) == (0, True)
    assert place.show("s")["trials"]["waiting"] == 1
    (attempt,) = place.look("trial", "s/0", "--format", "json").check().json["attempts_list"]
    assert attempt["state"] == "released"
    assert list(place.path.glob("hpo-artifacts/**/checkpoint-*"))


@pytest.mark.parametrize(
    "words", [("--idle-timeout", "soon"), ("--until", "26:00"), ("--until", "2001-01-01T00:00")]
)
def test_a_time_that_cannot_be_meant_is_refused(words: tuple[str, str], place: Workplace) -> None:
    place.look("create", place.study("s").name).check()
    refused = place.hpo("worker", "s", *words).check(2)
    assert words[0] in refused.err
    assert "Traceback" not in refused.err
