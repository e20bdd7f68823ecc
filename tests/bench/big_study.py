"""Databases with one big study in it, written straight into the tables."""

from __future__ import annotations

import random
import time
from typing import Any

import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.creation import create
from storage.database import optuna_tables
from storage.database.migrate import open_database
from storage.database.records import AttemptState, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, metric, rung, study, ticket, worker
from storage.queue import studies, tickets

PARAMETERS = [f"p{i}" for i in range(8)]
REPORTS = 10
RUNGS = (1, 3, 9)  # the steps at which successive halving compares, with one epoch and a factor of 3
ELSEWHERE = "elsewhere"  # the worker that has what runs


def fill(url: str, trials: int, epochs: int, parameters: int = 8) -> StudyRow:
    """A study of so many parameters whose trials have all reported `epochs` times; a tenth were pruned."""
    space: dict[str, Any] = {
        f"p{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(parameters - 1)
    }
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


def grow(url: str, spec: StudySpec, finished: int, running: int, queued: int) -> StudyRow:
    """A study in the middle of its search, as its workers would have left it.

    The finished trials have eight parameters and ten reports, a tenth were pruned at the third; those that
    run elsewhere have three reports. All have the marks of successive halving. `spec`: with `PARAMETERS`.
    """
    database = open_database(url)
    draw = random.Random(0)
    history = [_trial(draw, number) for number in range(finished)]
    row = create(database, spec, Settings(storage=url, artifacts="memory://bench"), history=history)
    began = finished + running
    with database.transaction() as connection:
        going_on = {"state": StudyState.RUNNING, "ended_at": None, "ended_why": None, "seconds_used": 0.0}
        connection.execute(
            study.update()
            .where(study.c.id == row.id)
            .values(**going_on, budget_trials=began + queued, clock_started_at=time.time())
        )
        tickets.add(connection, row.id, [None] * running, first=finished)
        for at in range(0, queued, 10_000):
            tickets.add(connection, row.id, [None] * min(10_000, queued - at), first=began + at)
        _run_elsewhere(connection, row, draw, range(finished, began))
        _mark_rungs(connection, row)
    if database.engine.dialect.name == "postgresql":  # as autovacuum does by itself
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    row = database.read(lambda connection: studies.get(connection, spec.study))
    database.close()
    return row


def _trial(draw: random.Random, number: int) -> FrozenTrial:
    final, pruned = draw.random() ** 0.5, number % 10 == 9
    last = 3 if pruned else REPORTS
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=final * (1 - 0.8**last),
        params={name: draw.random() for name in PARAMETERS},
        distributions=dict.fromkeys(PARAMETERS, FloatDistribution(0.0, 1.0)),
        intermediate_values={step: final * (1 - 0.8**step) for step in range(1, last + 1)},
    )


def _run_elsewhere(connection: sa.Connection, row: StudyRow, draw: random.Random, numbers: range) -> None:
    """Trials of these numbers run on a worker that is not here: rows of Optuna's and ours."""
    trials, params, reports = optuna_tables.trials, optuna_tables.params, optuna_tables.reports
    if not numbers:
        return
    optunas = {"study_id": row.optuna_study_id, "state": TrialState.RUNNING.name}
    connection.execute(sa.insert(trials), [{**optunas, "number": number} for number in numbers])
    query = sa.select(trials.c.trial_id, trials.c.number).where(
        trials.c.study_id == row.optuna_study_id, trials.c.number >= numbers.start
    )
    ids = {number: trial_id for trial_id, number in connection.execute(query)}
    shown = distribution_to_json(FloatDistribution(0.0, 1.0))
    connection.execute(
        sa.insert(params),
        [
            {
                "trial_id": ids[number],
                "param_name": name,
                "param_value": draw.random(),
                "distribution_json": shown,
            }
            for number in numbers
            for name in PARAMETERS
        ],
    )
    connection.execute(
        sa.insert(reports),
        [
            {
                "trial_id": ids[number],
                "step": step,
                "intermediate_value": draw.random(),
                "intermediate_value_type": "FINITE",
            }
            for number in numbers
            for step in range(1, 4)
        ],
    )
    mine = (ticket.c.study_id == row.id) & (ticket.c.number >= numbers.start)
    mine &= ticket.c.number < numbers.stop
    held = {"state": TicketState.RUNNING, "attempt": 1, "worker_id": ELSEWHERE}
    connection.execute(
        ticket.update()
        .where(mine)
        .values(
            **held,
            runner=ticket.c.number,
            lease_until=time.time() + 86_400,
            trial_number=ticket.c.number,
            trial_id=sa.select(trials.c.trial_id)
            .where(trials.c.study_id == row.optuna_study_id, trials.c.number == ticket.c.number)
            .scalar_subquery(),
        )
    )
    rows = connection.execute(sa.select(ticket.c.id, ticket.c.trial_id, ticket.c.number).where(mine)).all()
    connection.execute(
        sa.insert(attempt),
        [
            {
                "ticket_id": one.id,
                "number": 1,
                "trial_id": one.trial_id,
                "trial_number": one.number,
                "worker_id": ELSEWHERE,
                "runner": one.number,
                "device": "cpu",
                "state": AttemptState.RUNNING,
                "started_at": time.time(),
            }
            for one in rows
        ],
    )


def _mark_rungs(connection: sa.Connection, row: StudyRow) -> None:
    """What trials had at the rungs that they have reached."""
    reports = optuna_tables.reports
    mine = sa.select(optuna_tables.trials.c.trial_id).where(
        optuna_tables.trials.c.study_id == row.optuna_study_id
    )
    found = connection.execute(
        sa.select(reports.c.trial_id, reports.c.step, reports.c.intermediate_value).where(
            reports.c.trial_id.in_(mine), reports.c.step.in_(RUNGS)
        )
    ).all()
    if found:
        connection.execute(
            rung.insert(),
            [
                {
                    "trial_id": trial_id,
                    "rung": RUNGS.index(step),
                    "study_id": row.id,
                    "bracket": 0,
                    "epoch": step,
                    "value": value,
                    "reached_at": time.time(),
                    "written": 1,
                }
                for trial_id, step, value in found
            ],
        )
