"""`hpo create --from`: the real command, and what its workers then see."""

from __future__ import annotations

import sqlite3

from tests.end_to_end.workplace import Workplace, X

CURVED = """
    def objective(trial):
        return (trial.params["x"] - 4) ** 2
"""


def test_a_study_created_from_another_tries_its_best_and_knows_its_history(place: Workplace) -> None:
    place.run(place.study("old", CURVED, budget={"trials": 15})).check()
    known = place.trials("old")
    wider = {"x": {"type": "float", "low": -20.0, "high": 10.0}}
    refused = place.study("wide", CURVED, space=wider, sampler="tpe")
    told = place.hpo("create", refused.name, "--from", "old").check().err
    assert "its history is not given to the sampler: the spaces differ: x:" in told

    spec = place.study("new", CURVED, space=X, sampler="tpe", budget={"trials": 4})
    told = place.look("create", spec.name, "--from", "old", "--top", "1").check().err
    assert "1 of the best points of old are tried first" in told
    assert "tpe knows 15 trials of old from the start" in told
    place.run(spec).check()
    trials = place.trials("new")
    assert len(trials) == 4
    assert trials[0]["params"] == min(known, key=lambda trial: trial["values"])["params"]
    assert sum(abs(trial["params"]["x"] - 4) for trial in trials[1:]) / 3 < 3, "no random start"
    with sqlite3.connect(place.path / "hpo.db") as database:
        saw = database.execute("SELECT sampler_saw FROM hpo_ticket ORDER BY id DESC LIMIT 1").fetchone()[0]
    assert '"prior": 15' in saw
    assert place.look("create", spec.name, "--from", "old").code == 2
    assert place.look("create", refused.name, "--from", "nowhere").code == 3
