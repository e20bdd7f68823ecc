"""Studies whose files lie in an object store: no worker shares a directory with another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hpo.dashboard.access import Access
from hpo.dashboard.app import build_app, make_board
from hpo.studies.evaluation import evaluate
from hpo.studies.reading import LogPart, get_study, history, read_log
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.history.attempts import attempts_of
from tests.end_to_end.workplace import Workplace
from tests.support.s3 import S3Server
from tests.support.waiting import wait_until

OBJECTIVE = """
    import json, os, time
    from pathlib import Path

    import torch

    def objective(trial):
        x = trial.suggest_float("x", -10, 10)
        state = trial.checkpoint.load() or {"epoch": 0}
        if trial.number == 0:
            print(f"attempt {trial.attempt} begins after epoch {state['epoch']}")
        for epoch in range(state["epoch"] + 1, 6):
            trial.report(x * x + epoch, epoch)
            trial.checkpoint.save({"epoch": epoch}, epoch)
            if epoch == 3 and trial.number == 0 and Path("hold").exists():
                Path("reached").touch()
                while Path("hold").exists():
                    time.sleep(0.02)
        torch.save({"w": torch.full((1000,), x, dtype=torch.float64)}, "weights")
        trial.artifact("weights", "model.pt")
        Path("evaluation").write_text(json.dumps({"metrics": {"accuracy": 0.5}}))
        trial.artifact("evaluation", "evaluation.json")
        return x * x

    def evaluate(trial, checkpoint):
        assert float(checkpoint["w"][0]) == trial.params["x"]
        return {"metrics": {"accuracy": 0.25}}
"""
TRIES = 12  # more connections than the driver tries by itself


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def machines(tmp_path: Path, s3: S3Server, pg_url: str, monkeypatch: pytest.MonkeyPatch) -> list[Workplace]:
    """Two directories that share a database and a bucket, and no file. This process sees the bucket too."""
    env = {
        **s3.env,
        "HPO_STORAGE": pg_url,
        "HPO_ARTIFACTS": f"s3://{s3.bucket}/{tmp_path.name}",
        "HPO_LEASE": "2",
    }
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    places = [Workplace(tmp_path / name, env) for name in ("first", "second")]
    for place in places:
        place.path.mkdir()
        place.study("far", OBJECTIVE, budget={"trials": 2})
    return places


@pytest.fixture
def database(pg_url: str) -> Iterator[Database]:
    """What the machines share, opened after they made it."""
    opened = open_database(pg_url)
    yield opened
    opened.close()


def test_a_killed_worker_s_trial_goes_on_elsewhere_and_the_bucket_holds_all_there_is(
    machines: list[Workplace], s3: S3Server, database: Database
) -> None:
    first, second = machines
    prefix = first.env["HPO_ARTIFACTS"].rpartition("/")[2] + "/"
    first.write("hold", "")
    with first.start("run", "far.yaml", "--runners", "1", "--no-report") as worker:
        wait_until((first.path / "reached").exists, what="epoch 3")
        worker.kill()
    second.hpo("worker", "far", "--runners", "1").check()

    row = get_study(database, "far")
    attempts = database.read(lambda c: attempts_of(c, row, 0))
    assert [(a.state, a.resumed_from) for a in attempts] == [("lost", None), ("complete", 3)]
    part = read_log(row, 0, 2, 0, 100_000)
    assert part is not None
    assert "begins after epoch 3" in part.text
    assert read_log(row, 0, 2, -9, 9) == LogPart(part.text[-9:], part.size - 9, part.size, part.size)
    assert read_log(row, 0, 2, part.size, 9) == LogPart("", part.size, part.size, part.size)
    with TestClient(
        build_app(make_board(database, Access("t" * 20, "v" * 20), lease=15.0)),
        base_url="http://127.0.0.1:8080",
    ) as client:
        page = "/studies/far/trials/0/files/evaluation.json"
        kept = client.get(page, headers={"Authorization": "Bearer " + "v" * 20})
    assert kept.json() == {"metrics": {"accuracy": 0.5}}
    second.hpo("best", "far", "--checkpoint", "best.pt").check()
    assert (second.path / "best.pt").read_bytes()[:2] == b"PK", "a torch file"
    assert evaluate(database, row, second.path) == {"metrics": {"accuracy": 0.25}}
    assert not any(path.name == "hpo-artifacts" for place in machines for path in place.path.rglob("*"))
    assert s3.env["AWS_SECRET_ACCESS_KEY"] not in worker.err + worker.out

    assert s3.keys(prefix)
    second.hpo("delete", "far", "--yes").check()
    assert s3.keys(prefix) == []


def test_a_short_outage_of_the_store_fails_no_trial(
    machines: list[Workplace], s3: S3Server, database: Database
) -> None:
    """Files wait for the store; what cannot wait is said in the attempt's log."""
    place = machines[0]
    place.write("hold", "")
    with place.start("run", "far.yaml", "--runners", "1", "--no-report", "--no-evaluate") as run:
        wait_until((place.path / "reached").exists, what="epoch 3")
        with s3.outage() as turned_away:
            (place.path / "hold").unlink()
            wait_until(lambda: len(turned_away) > TRIES, what="the driver gives up, and is asked again")
        run.wait().check()
    trials = history(database, "far").trials
    assert [(trial.state, trial.attempts) for trial in trials] == [("complete", 1)] * 2
    part = read_log(get_study(database, "far"), 0, 1, 0, 100_000)
    assert part is not None
    assert "is away (try 1)" in part.text


def test_a_store_that_is_not_there_is_told_before_the_first_trial(place: Workplace) -> None:
    """Its driver, its URL: neither costs a trial, and a secret in the URL is not repeated."""
    place.study("far")
    without_driver = {"HPO_ARTIFACTS": "gs://bucket/x"}
    refused = place.hpo("create", "far.yaml", env=without_driver).check(2)
    assert "pip install" in refused.err
    refused = place.hpo("create", "far.yaml", env={"HPO_ARTIFACTS": "s3://KEY:s3cr3t@bucket/x"}).check(2)
    assert "AWS_SECRET_ACCESS_KEY" in refused.err
    assert "s3cr3t" not in refused.err
    assert place.hpo("ls").check().out == ""
