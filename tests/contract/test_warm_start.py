"""A study that starts from another one: what is taken, and what is left out with a sentence."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.errors import UserError
from hpo.search.diverged import is_diverged
from hpo.search.prior import prior_trials
from hpo.search.space import distribution
from hpo.settings import Settings
from hpo.spec import StudySpec, parse_spec
from hpo.studies.creation import create, create_or_continue
from hpo.studies.reading import history
from hpo.studies.warm_start import WarmStart, warm_start
from storage.database.engine import Database
from storage.database.records import TicketState
from storage.database.tables import ticket
from storage.queue import studies
from tests.support.shared import Opener

SETTINGS = Settings(artifacts="memory://warm")
SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": 0, "high": 10},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": ["sgd"]}},
}
POINTS = [
    ({"x": 9.0, "optimizer": "sgd", "momentum": 0.9}, 0.5),
    ({"x": 1.0, "optimizer": "adam"}, 0.7),
    ({"x": 2.0, "optimizer": "adam"}, 0.9),
    ({"x": 3.0, "optimizer": "sgd", "momentum": 0.1}, 0.8),
]
EXPLODED = {"x": 8.0, "optimizer": "adam"}
NAN = math.nan


def spec(name: str = "new", **fields: Any) -> StudySpec:
    base = {"study": name, "objective": "m", "direction": "maximize", "budget": {"trials": 6}}
    return parse_spec({**base, "space": SPACE, **fields})


@pytest.fixture
def old(database: Database, party: Opener) -> StudySpec:
    """Four complete trials, one that was pruned, and one that diverged."""
    made = spec("old", budget={"trials": 6})
    worker = party(create(database, made, SETTINGS))
    ends: dict[float | None, TicketState] = {None: TicketState.PRUNED, NAN: TicketState.DIVERGED}
    for point, value in [*POINTS, ({"x": 5.0, "optimizer": "adam"}, None), (EXPLODED, NAN)]:
        claim = worker.claim()
        worker.writer.lease = claim.lease
        dists = {name: distribution(made.space[name]) for name in point}
        worker.writer.start_trial(worker.study.optuna_study_id, claim, point, dists, {})
        state = ends.get(value, TicketState.COMPLETE)
        worker.writer.deliver(state, (value,) if value and state is TicketState.COMPLETE else None)
    return made


def from_old(database: Database, new: StudySpec, top: int = 2) -> WarmStart:
    return warm_start(database, new, "old", top)


def test_the_best_points_come_first_and_the_history_goes_to_the_sampler_alone(
    database: Database, old: StudySpec
) -> None:
    """The budget stays what it says; nothing of the other study counts as a trial of this one."""
    new = spec(enqueue=[{"x": 4.0}])
    row, _ = create_or_continue(database, new, SETTINGS, from_old(database, new))
    with database.transaction(write=False) as connection:
        query = sa.select(ticket.c.point).where(ticket.c.study_id == row.id).order_by(ticket.c.number)
        points = [point and json.loads(point) for point in connection.scalars(query)]
        prior = prior_trials(new, studies.prior(connection, row.id))
    assert points == [{"x": 4.0}, POINTS[2][0], POINTS[3][0], None, None, None]
    assert [(trial.params, trial.value) for trial in prior] == [*POINTS, (EXPLODED, None)]
    assert history(database, "new").trials == ()
    assert row.budget_trials == 6


def test_what_diverged_goes_to_the_sampler_without_a_value(database: Database, old: StudySpec) -> None:
    new = spec()
    warm = from_old(database, new, top=9)
    assert warm.prior is not None
    assert warm.prior["trials"][-1] == {"params": EXPLODED, "values": None}
    assert EXPLODED not in warm.points, "it is no good start"
    assert [is_diverged(trial) for trial in prior_trials(new, warm.prior)] == [False] * 4 + [True]


def test_the_same_file_finds_the_study_again_but_takes_nothing_twice(
    database: Database, old: StudySpec
) -> None:
    new = spec()
    create_or_continue(database, new, SETTINGS, from_old(database, new))
    assert not create_or_continue(database, new, SETTINGS)[1]
    with pytest.raises(UserError, match="exists already; --from counts only when a study is made"):
        create_or_continue(database, new, SETTINGS, from_old(database, new))


def test_what_does_not_fit_the_new_space_is_left_out_with_a_sentence(
    database: Database, old: StudySpec
) -> None:
    narrow = {"x": {"type": "float", "low": 0, "high": 2.5}, "decay": SPACE["x"]}
    warm = from_old(database, spec(space=narrow), top=4)
    assert warm.points == ({"x": 2.0}, {"x": 1.0})
    assert warm.prior is None
    told = "\n".join(warm.notes)
    assert "optimizer is left out: it is no parameter here (4 of its points)" in told
    assert "a value of x is left out: it must lie between 0.0 and 2.5, got 3.0 (1 of its points)" in told
    assert "the spaces differ: x: FloatDistribution(high=10.0" in told
    assert "decay is only here" in told
    assert "momentum is only there" in told


def test_a_condition_that_differs_takes_the_parameter_with_it(database: Database, old: StudySpec) -> None:
    space = {**SPACE, "momentum": {**SPACE["momentum"], "when": {"optimizer": ["adam"]}}}
    warm = from_old(database, spec(space=space))
    assert warm.points == ({"x": 2.0, "optimizer": "adam"}, {"x": 3.0, "optimizer": "sgd"})
    assert "momentum exists under another condition there" in "\n".join(warm.notes)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"direction": "minimize"}, "it is to maximize, this one to minimize"),
        ({"sampler": "random"}, "random does not learn from another study (tpe, rungs and gp do)"),
        ({"sampler": "cmaes"}, "cmaes does not learn"),
        ({"space": {}}, "a study without a declared space cannot be compared"),
    ],
)
def test_history_that_means_nothing_here_is_not_given(
    database: Database, old: StudySpec, fields: dict[str, Any], told: str
) -> None:
    """The points are still the other study's best, by its own direction."""
    warm = from_old(database, spec(**fields), top=1)
    assert warm.prior is None
    assert told in "\n".join(warm.notes)
    assert warm.points == (POINTS[2][0],)


def test_other_code_and_other_data_are_said(database: Database, old: StudySpec) -> None:
    warm = from_old(database, spec(objective="other", fixed={"epochs": 3}), top=0)
    assert warm.prior is not None
    assert warm.points == ()
    assert any("another objective: m" in note for note in warm.notes)
    assert any("other fixed values: epochs" in note for note in warm.notes)


def test_more_points_than_the_budget_holds_are_cut(database: Database, old: StudySpec) -> None:
    warm = from_old(database, spec(budget={"trials": 1}), top=4)
    assert len(warm.points) == 1
    assert "3 of its points find no place in a budget of 1" in warm.notes


def test_a_grid_has_no_use_for_it(database: Database, old: StudySpec) -> None:
    grid = spec(sampler="grid", space={"x": {"type": "int", "low": 0, "high": 3}})
    with pytest.raises(UserError, match="visits every cell anyway"):
        from_old(database, grid)
