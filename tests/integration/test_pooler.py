"""Behind a pooler no transaction knows which session it gets, and everything still holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from storage.database.migrate import open_database
from storage.database.records import NothingToClaim
from storage.history.audit import audit
from storage.queue import studies
from tests.support.command import HpoProcess
from tests.support.pg import PgServer
from tests.support.pooler import Pooler
from tests.support.shared import Party, make_study

OBJECTIVE = """
def objective(trial):
    for step in range(1, 6):
        trial.report(trial.params["x"] * step, step)
        trial.should_prune()
    return trial.params["x"]
"""
STUDY = """
study: pooled
objective: mine.py
direction: maximize
sampler: random
pruner: median
budget: {trials: 12}
space: {x: {type: float, low: 0.0, high: 1.0}}
"""


@pytest.fixture
def pooled(pg_server: PgServer) -> Iterator[str]:
    """An empty database, by way of a pooler."""
    direct = pg_server.create_database()
    with Pooler(pg_server) as pooler:
        yield pooler.url(direct)


def test_tables_are_made_once_however_many_begin_at_the_same_moment(pooled: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(open_database, [pooled] * 6))
    for database in opened:
        assert database.read(lambda c: studies.names(c)) == []
        database.close()


def test_claims_reports_and_results_of_many_share_a_few_sessions(pooled: str) -> None:
    """More workers than sessions, and each statement often enough to be prepared by the driver."""
    database = open_database(pooled)
    study = make_study(database, 24)
    workers = [Party(pooled, study, f"w{number}") for number in range(8)]

    def work(one: Party) -> int:
        done = 0
        while not isinstance(claim := one.try_claim(), NothingToClaim):
            one.start(claim)
            for step in range(8):
                one.writer.report(step, 0.5, {"loss": 1.0})
            one.complete()
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, workers)) == 24
    found = database.read(partial(audit, row=study))
    assert found.holds, found
    assert found.results == 24
    for one in workers:
        one.close()
    database.close()


def test_a_transaction_left_open_is_ended_by_the_server_also_behind_a_pooler(pooled: str) -> None:
    database = open_database(pooled)
    with database.transaction() as connection:
        timeout = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
        zone = connection.exec_driver_sql("SHOW timezone").scalar()
    assert (timeout, zone) == ("10s", "UTC")
    database.close()


def test_a_study_runs_behind_a_pooler(
    pooled: str, tmp_path: Path, start_hpo: Callable[..., HpoProcess]
) -> None:
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    (tmp_path / "study.yaml").write_text(STUDY)
    env = {"HPO_STORAGE": pooled}
    run = start_hpo("run", "study.yaml", "--runners", "2", "--gpus", "none", "--no-report", env=env)
    assert run.wait().code == 0
    database = open_database(pooled)
    row = database.read(lambda c: studies.get(c, "pooled"))
    assert database.read(partial(audit, row=row)).holds
    database.close()
