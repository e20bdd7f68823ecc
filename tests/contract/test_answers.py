"""What lists, details and the API say of a study, on both databases."""

from __future__ import annotations

import math

import sqlalchemy as sa

from hpo.studies import answers
from storage.database import optuna_tables
from storage.database.engine import Database, Transaction
from storage.database.records import TicketState
from storage.history.trials import Part, ids_of, read_trials
from tests.support.shared import Opener, make_study

SPEC = {
    "directions": ["maximize", "minimize"],
    "space": {},
    "objective": "m",
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
}


def test_the_best_of_several_directions_is_the_front(database: Database, party: Opener) -> None:
    study = make_study(database, 3, spec=SPEC, directions=["maximize", "minimize"])
    one = party(study)
    for values in ((1.0, 1.0), (2.0, 2.0), (1.0, 3.0)):
        one.begin()
        one.writer.deliver(TicketState.COMPLETE, values)
    found = database.read(answers.study_detail, study.name)
    assert isinstance(found.best, list)
    assert [(best.number, best.values) for best in found.best] == [(0, [1.0, 1.0]), (1, [2.0, 2.0])]
    assert (found.best_params, found.trial, found.done) == (None, None, 3)


def test_a_line_of_a_table_counts_the_reports_and_reads_the_last_finite_one(
    database: Database, party: Opener
) -> None:
    """It says what the whole trial says, without its other reports."""
    study = make_study(database, 2, spec=SPEC | {"directions": ["maximize"]})
    one = party(study)
    one.finish_one()
    one.finish_one()

    def report(connection: Transaction) -> None:
        trial = ids_of(connection, study, [0])[0]
        for step, value in enumerate((0.25, 0.5, math.nan)):
            stored, kind = optuna_tables.stored(value)
            row = {"intermediate_value": stored, "intermediate_value_type": kind}
            connection.execute(sa.insert(optuna_tables.reports).values(trial_id=trial, step=step, **row))

    database.write(report)
    lines = database.read(lambda connection: read_trials(connection, study, with_=Part.LINE)).values()
    whole = database.read(lambda connection: read_trials(connection, study)).values()
    assert [dict(line.reports) for line in lines] == [{1: 0.5}, {}]
    shown = [(line.steps, line.last_report) for line in lines]
    assert shown == [(trial.steps, trial.last_report) for trial in whole] == [(3, 0.5), (0, None)]
