"""What lists, details and the API say of a study, on both databases."""

from __future__ import annotations

from hpo.studies import answers
from storage.database.engine import Database
from storage.database.records import TicketState
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
    found = database.read(lambda c: answers.study_detail(c, database, study.name))
    assert isinstance(found.best, list)
    assert [(best.number, best.values) for best in found.best] == [(0, [1.0, 1.0]), (1, [2.0, 2.0])]
    assert (found.best_params, found.trial, found.done) == (None, None, 3)
