"""Plain Optuna and `hpo run` at one database at once, through the real command."""

from __future__ import annotations

import optuna

from tests.end_to_end.workplace import Workplace
from tests.support.waiting import wait_until

OBJECTIVE = """
import pathlib, time

def objective(trial):
    here = pathlib.Path(__file__).parent
    (here / "running").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    x = trial.suggest_float("x", 0, 1)
    trial.set_constraint("large", x - 0.5)
    return x
"""


def test_plain_optuna_works_beside_a_run_and_the_budget_stays_exact(place: Workplace) -> None:
    """What it runs meanwhile is foreign, what it leaves waiting is run here, and the best is Optuna's."""
    spec = place.study("beside", OBJECTIVE, space=None, direction="maximize", budget={"trials": 4})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as run:
        wait_until((place.path / "running").exists, what="a trial runs")
        theirs = optuna.load_study(study_name="beside", storage=f"sqlite:///{place.path}/hpo.db")
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 0.4), n_trials=2)
        theirs.enqueue_trial({"x": 0.75})
        (place.path / "go").touch()
        run.wait().check()
    trials = place.trials("beside")
    assert [trial["number"] for trial in trials if trial["foreign"]] == [1, 2]
    assert len(trials) == 6
    assert place.show("beside")["trials"]["complete"] == 4
    audit = place.look("audit", "beside", "--format", "json").check().json
    assert (audit["holds"], audit["foreign"]) == (True, [1, 2])
    best = place.look("best", "beside", "--format", "json").check().json
    assert best["number"] == theirs.best_trial.number
    assert not next(trial for trial in trials if trial["params"]["x"] == 0.75)["feasible"]
