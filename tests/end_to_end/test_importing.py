"""`hpo import`: another tool's trials, then the usual commands."""

from __future__ import annotations

import optuna

from tests.end_to_end.workplace import Workplace, X


def test_an_optuna_database_is_taken_over_and_extended_by_its_own_objective(place: Workplace) -> None:
    place.write("parabola.py", 'def objective(trial):\n    return trial.suggest_float("x", -10, 10) ** 2\n')
    study = optuna.create_study(study_name="parabola", storage=f"sqlite:///{place.path}/theirs.db")
    study.optimize(lambda trial: trial.suggest_float("x", -10, 10) ** 2, 8)
    told = place.hpo("import", "--optuna", "theirs.db", "--objective", "parabola.py").check().err
    assert "parabola has 8 trials of parabola now; `hpo extend parabola --trials +50` lets it go on" in told
    place.look("extend", "parabola", "--trials", "+2").check()
    place.hpo("worker", "parabola", "--runners", "1").check()
    place.look("audit", "parabola").check()
    assert [trial["state"] for trial in place.trials("parabola")] == ["complete"] * 10


def test_a_table_is_taken_over_and_mistakes_exit_2(place: Workplace) -> None:
    spec = place.study("table", space=X)
    place.write("rows.csv", "x,value\n1,1\n2,4\n3,oops\n")
    refused = place.hpo("import", spec.name, "--csv", "rows.csv").check(2)
    assert "row 4: value must be a number, got oops" in refused.err
    place.write("rows.csv", "x,value\n1,1\n2,4\n")
    place.hpo("import", spec.name, "--csv", "rows.csv", "--into", "other").check()
    assert place.show("other")["best"] == {"number": 0, "value": 1.0, "values": [1.0], "params": {"x": 1.0}}
    for wrong in ([], ["--csv", "rows.csv"], [spec.name, "--csv", "rows.csv", "--optuna", "x.db"]):
        place.hpo("import", *wrong).check(2)
