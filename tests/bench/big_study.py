"""A database with one big study in it, written straight into the tables."""

from __future__ import annotations

import random
import time
from typing import Any

import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages._rdb import models

from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.creation import create
from storage.database.migrate import open_database
from storage.database.records import StudyRow
from storage.database.tables import attempt, metric, ticket, worker


def fill(url: str, trials: int, epochs: int) -> StudyRow:
    """A study of eight parameters whose trials have all reported `epochs` times; a tenth were pruned."""
    space: dict[str, Any] = {f"p{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(7)}
    space["kind"] = {"type": "categorical", "choices": ["a", "b", "c"]}
    spec = StudySpec.model_validate(
        {
            "study": "big",
            "objective": "objectives.classifier",
            "direction": "maximize",
            "sampler": {"name": "random", "seed": 0},
            "budget": {"trials": trials + 1000},
            "space": space,
            "fixed": {"epochs": epochs},
        }
    )
    database = open_database(url)
    row = create(database, spec, Settings(storage=url, artifacts="memory://bench"))
    draw = random.Random(0)
    start = time.time() - trials
    number_of = FloatDistribution(0.0, 1.0)
    choice_of = CategoricalDistribution(("a", "b", "c"))
    distributions = {name: number_of for name in space if name != "kind"} | {"kind": choice_of}
    shown = {name: distribution_to_json(found) for name, found in distributions.items()}
    tables: dict[Any, list[dict[str, Any]]] = {}

    def put(table: Any, **values: Any) -> None:
        tables.setdefault(table, []).append(values)

    put(
        worker,
        id="w",
        name="gpu-box:1",
        host="gpu-box",
        host_key="gpu-box",
        pid=1,
        pid_started=0.0,
        lease_seconds=15.0,
        state="left",
    )
    tables[worker][0] |= {"study_id": row.id, "devices": '["cpu"]', "versions": "{}", "started_at": start}
    tables[worker][0] |= {"beat_at": start, "good_attempts": trials, "bad_attempts": 0}
    trial_table, value_table = models.TrialModel.__table__, models.TrialValueModel.__table__
    param_table, report_table = models.TrialParamModel.__table__, models.TrialIntermediateValueModel.__table__
    finite = models.TrialValueModel.TrialValueType.FINITE
    finite_report = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for n in range(trials):
        trial_id, final = n + 1, draw.random() ** 0.5
        pruned = n % 10 == 9
        state = "PRUNED" if pruned else "COMPLETE"
        put(trial_table, trial_id=trial_id, number=n, study_id=row.optuna_study_id, state=state)
        if not pruned:
            put(value_table, trial_id=trial_id, objective=0, value=final, value_type=finite)
        for name in space:
            stored = float(draw.randrange(3)) if name == "kind" else draw.random()
            put(
                param_table,
                trial_id=trial_id,
                param_name=name,
                param_value=stored,
                distribution_json=shown[name],
            )
        for step in range(1, epochs + 1):
            value = final * (1 - 0.8**step)
            put(
                report_table,
                trial_id=trial_id,
                step=step,
                intermediate_value=value,
                intermediate_value_type=finite_report,
            )
            put(metric, trial_id=trial_id, name="loss", step=step, value=1 - value)
        put(
            attempt,
            ticket_id=n + 1,
            number=1,
            trial_id=trial_id,
            trial_number=n,
            worker_id="w",
            runner=n % 4,
            device="cpu",
            state=state.lower(),
            started_at=start + n,
            ended_at=start + n + 0.9,
        )
    with database.transaction() as connection:
        for table, rows in tables.items():
            for at in range(0, len(rows), 20_000):
                connection.execute(sa.insert(table), rows[at : at + 20_000])
        for final_state, which in (
            ("complete", ticket.c.number % 10 != 9),
            ("pruned", ticket.c.number % 10 == 9),
        ):
            connection.execute(
                ticket.update()
                .where(ticket.c.study_id == row.id, ticket.c.number < trials, which)
                .values(
                    state=final_state, attempt=1, trial_id=ticket.c.number + 1, trial_number=ticket.c.number
                )
            )
    database.close()
    return row
