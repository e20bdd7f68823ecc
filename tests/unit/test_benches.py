"""What measures growing studies and many workers works: in small, every step of it runs."""

from __future__ import annotations

from pathlib import Path

from storage.database.migrate import open_database
from tests.bench.bench_growth import BARE_ROWS, ROWS, SHORT, Size, measure, table
from tests.bench.scale import simulate
from tests.support.shared import make_study


def test_the_bench_of_growing_studies_measures_every_step(tmp_path: Path) -> None:
    """`make bench` takes minutes, so nobody would see for long that a verb it calls has changed."""
    size = Size(finished=12, running=3, queued=20)
    ours, bare = measure(f"sqlite:///{tmp_path / 'study.db'}", size, rounds=2)
    assert set(ours.taken) == set(ROWS)
    assert set(bare.taken) == set(BARE_ROWS)
    lines = table("finished", [size], [(ours, bare)]).splitlines()
    assert len(lines) == 1 + len(ROWS) + len(BARE_ROWS)
    assert set(SHORT) == {"finished", "running", "queued"}


def test_simulated_workers_run_trials_and_lose_no_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    database = open_database(url)
    make_study(database, 1000, name="simulated")
    database.close()
    verbs = ("claim", "report", "deliver")
    assert simulate(url, "simulated", count=2, seconds=1.0, pace=60.0, verbs=verbs).lost == 0
