"""Rungs are stored with the report that came to one, and compared by every worker."""

from __future__ import annotations

from functools import partial
from typing import Any

import optuna

from storage.database.engine import Database
from storage.queue import rungs
from storage.queue.rungs import Rung
from tests.support.shared import make_study as plain_study

ASHA = {"name": "asha", "min_epochs": 1, "max_epochs": 9, "reduction_factor": 3}


def stored(database: Database, study: Any) -> list[tuple[int, int, int, float | None]]:
    """Trial, rung, epoch and value of each row, trials in the order of their ids from 0."""
    _, found = database.read(lambda c: rungs.newer(c, study.id, 0))
    first = min((one.trial_id for one in found), default=0)
    return sorted((one.trial_id - first, one.rung, one.epoch, one.value) for one in found)


def test_a_rung_is_there_before_its_pruner_answers(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """In the report's own transaction; and the next trial, another worker's, is compared with it."""
    study = make_study(pruner=ASHA)
    one, other = open_runner(study), open_runner(study)
    seen = []

    def objective(trial: Any) -> float:
        for step in range(1, 10):
            trial.report(1.0 - trial.number - step / 100, step)
            pruned = trial.should_prune()
            seen.append(len(stored(database, study)))
            if pruned:
                raise optuna.TrialPruned
        return 1.0

    doing(objective)
    assert [runner.run_one().state for runner in (one, other)] == ["complete", "pruned"]
    assert seen == [1, 1, 2, 2, 2, 2, 2, 2, 2, 3], "none at the last epoch, where nothing is decided"
    assert stored(database, study) == [(0, 0, 1, 0.99), (0, 1, 3, 0.97), (1, 0, 1, -0.01)]


def test_a_verdict_waits_until_it_is_asked_for(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """A trial that asks seldom is compared at the rungs it has passed."""
    study = make_study(pruner=ASHA)
    runner = open_runner(study)
    asked = []

    def objective(trial: Any) -> float:
        for step in range(1, 9):
            trial.report(-trial.number, step)
        asked.append((trial.should_prune(), trial.should_prune()))
        return 1.0

    doing(objective)
    for _ in range(2):
        runner.run_one()
    assert asked == [(False, False), (True, False)]


def test_of_two_brackets_each_is_compared_alone(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    study = make_study(pruner={"name": "hyperband", "max_epochs": 9})
    runner = open_runner(study)

    def objective(trial: Any) -> float:
        trial.report(0.0, 3)
        trial.should_prune()
        return 1.0

    doing(objective)
    for _ in range(6):
        runner.run_one()
    _, found = database.read(lambda c: rungs.newer(c, study.id, 0))
    by_bracket = {one.bracket: {row.epoch for row in found if row.bracket == one.bracket} for one in found}
    assert set(by_bracket) >= {0, 1}, by_bracket


def test_increments_lead_to_every_row(database: Database) -> None:
    """What is written again is told again; another study's rows are not told."""
    study, other = plain_study(database), plain_study(database, name="other")
    told: dict[tuple[int, int], float | None] = {}
    seen = 0

    def write(study_id: int, *reached: Rung) -> None:
        database.write(lambda c: rungs.write(c, study_id, reached))

    for number in range(4):
        write(study.id, Rung(number, 0, 0, 1, number / 10), Rung(0, 1, 0, 3, number / 10))
        write(other.id, Rung(100 + number, 0, 0, 1, 0.5))
        seen, found = database.read(partial(rungs.newer, study_id=study.id, since=seen))
        assert {one.trial_id for one in found} <= {0, *range(number - 1, number + 1)}
        told |= {(one.trial_id, one.rung): one.value for one in found}
    assert told == {(0, 1): 0.3, (0, 0): 0.0, (1, 0): 0.1, (2, 0): 0.2, (3, 0): 0.3}
