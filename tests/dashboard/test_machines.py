"""How busy machines were: sampled with the heartbeat, kept small, drawn for a study and for a trial."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from hpo.settings import Settings
from hpo.studies.creation import create
from hpo.worker.load import KEPT, Loads
from storage.database.engine import Database
from storage.queue import workers
from tests.dashboard.seeded import make_spec
from tests.support.shared import Party

METERS = [
    {"name": "runners", "value": 50.0, "max": 100.0, "unit": "%"},
    {"name": "GPU 0 memory", "value": 30e9, "max": 40e9, "unit": "bytes"},
]


def test_a_week_of_looks_takes_a_few_kilobytes_and_keeps_the_mean() -> None:
    now = [0.0]
    loads, kept = Loads(lambda: now[0]), ""
    for second in range(0, 7 * 86_400, 5):
        now[0] = float(second)
        busy = {**METERS[0], "value": 100.0 * (second < 3 * 86_400)}
        kept = loads.add([busy, *METERS[1:]]) or kept
    assert len(kept) < 3000
    found = json.loads(kept)
    assert found["names"] == ["runners", "GPU 0 memory"]
    assert KEPT // 2 <= len(found["samples"]) < KEPT
    assert {sample[2] for sample in found["samples"]} == {75}
    seconds = [0, *(sample[0] for sample in found["samples"])]
    busy = sum((b - a) * s[1] / 100 for a, b, s in zip(seconds, seconds[1:], found["samples"], strict=False))
    assert busy == pytest.approx(3 * 86_400, rel=0.01)


def test_machines_of_a_study_and_of_a_trial(database: Database, sqlite_url: str, viewer: TestClient) -> None:
    """Lines of each meter from the first trial on, and how long runners were idle; a trial has its own
    machine's while it ran there; who never served the study is not drawn.
    """
    row = create(database, make_spec("fleet"), Settings(storage=sqlite_url, artifacts="memory://x"))
    mine, other = Party(sqlite_url, row, "mine"), Party(sqlite_url, row, "other", every=True)
    mine.finish_one()
    samples = {"names": ["runners", "processors"], "samples": [[100, 100, 40], [200, 0, 20]]}
    for party in (mine, other):
        database.write(lambda c, p=party: workers.record_load(c, p.id, json.dumps(samples)))  # type: ignore[misc]
    at = {"device": "cpu", "trial": 0, "attempt": 2, "step": 1, "value": 0.5}
    status = {"runners": [at, {**at, "lanes": 3}, {**at, "trial": None}], "load": METERS}
    database.write(lambda c: workers.beat(c, mine.id, status))
    page = viewer.get("/workers").text
    assert page.count('<a href="/studies/fleet/trials/0">0</a> (attempt 2)') == 2
    assert "(attempt 2) and 2 more" in page
    chart = f"/api/v1/studies/{row.name}/charts/machines"
    assert viewer.get(chart).json()["figure"] is None, "samples of the time after the trial are no part of it"
    mine.begin()
    found = viewer.get(chart).json()
    assert [(line["name"], line["y"]) for line in found["figure"]["data"]] == [
        ("mine", [100, 0]),
        ("mine", [40, 20]),
    ]
    assert "nothing to do for 1 min 40 s in all, 50 % of their time" in found["caption"]
    drawn = {one["id"] for one in viewer.get(f"/api/v1/studies/{row.name}/trials/1/charts").json()["charts"]}
    assert "machines" in drawn
    mine.close()
    other.close()
