"""Feasible comes first everywhere: what is the best is what Optuna says of the same rows."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import optuna
import pytest

from hpo.errors import HpoError
from hpo.search.prior import prior_trials
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import answers
from hpo.studies.evaluation import evaluate
from hpo.studies.exporting import export
from hpo.studies.importing import derived_spec, import_study
from hpo.studies.reading import history
from hpo.studies.sources import read_csv, read_optuna
from hpo.studies.warm_start import warm_start
from storage.database.engine import Database
from storage.database.records import StudyRow, StudyState, TicketState
from storage.files import retention
from storage.files.artifacts import ArtifactStore
from storage.history import lists
from storage.history.records import why_no_best
from storage.queue import studies
from tests.support.kept import finished, spec, weights
from tests.support.shared import Opener, Party, let_expire, make_study, state_of

SPEC = {
    "study": "study",
    "objective": "m",
    "direction": "minimize",
    "budget": {"trials": 9},
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
}
STORED = {**spec("minimize"), "spec": parse_spec(SPEC).model_dump(mode="json")}
VALUES = (0.25, 0.5, 0.5, 1.0)
OTHERS = (-math.inf, -1e-300, -0.0, 0.0, 0, 5e-324, 0.5, 1e300, math.inf)


def deliver(one: Party, *values: float, **constraints: float) -> None:
    """A complete trial with these constraints."""
    one.begin()
    one.writer.deliver(TicketState.COMPLETE, values, constraints=constraints)


def of_optuna(database: Database, row: StudyRow) -> tuple[float | None, list[int]]:
    """Value of the best trial, or None, and the numbers on the front, as plain Optuna has them."""
    found = optuna.load_study(study_name=row.name, storage=database.rdb)
    front = sorted(trial.number for trial in found.best_trials)
    if len(row.spec["directions"]) > 1:
        return None, front
    try:
        return found.best_trial.value, front
    except ValueError:
        return None, front


def test_random_constrained_studies_are_won_as_in_optuna(database: Database, party: Opener) -> None:
    """Ties, zeros of both signs, infinite values and constraints, lists of Optuna 4, pruned, failed."""
    for seed in range(20):
        draw = random.Random(seed)
        directions = draw.choice([["minimize"], ["maximize"], ["minimize", "maximize"]])
        row = make_study(database, 8, name=f"study-{seed}", **spec(*directions))
        random_trials(party(row), draw, directions)
        demand_optunas_best(database, row)


def random_trials(one: Party, draw: random.Random, directions: list[str]) -> None:
    worst = {"minimize": math.inf, "maximize": -math.inf}[directions[0]]
    drawn = VALUES if len(directions) > 1 else (*VALUES, worst)
    for _ in range(8):
        one.begin()
        names = draw.choice([(), ("a",), ("a", "b")])
        constraints = {name: draw.choice(OTHERS) for name in names}
        if not names and draw.random() < 0.3:
            old = draw.choice([None, [], [0.0, -0.0], [-1.0, 0.5], [0.0, -2.5], [1e-9]])
            one.writer.set_attribute("system", "constraints", old)
        if draw.random() < 0.2 and len(directions) == 1:
            one.writer.deliver(TicketState.PRUNED, (draw.choice(VALUES),), constraints=constraints)
        elif draw.random() < 0.1:
            one.writer.fail("boom")
        else:
            one.writer.deliver(
                TicketState.COMPLETE, [draw.choice(drawn) for _ in directions], constraints=constraints
            )


def demand_optunas_best(database: Database, row: StudyRow) -> None:
    value, front = of_optuna(database, row)
    found = history(database, row.name)
    now = database.read(lambda c: lists.progress(c, row.name))
    if len(found.directions) > 1:
        assert [trial.number for trial in found.winners] == front
        assert now.best_number is None
    elif value is None or math.isinf(value):
        assert found.best is None
        assert now.best_number is None
    else:
        assert found.best is not None
        assert found.best.values == (value,)
        assert found.best.number == min(front), "the earliest of equals"
        assert (now.best_number, now.best_value) == (found.best.number, value)
    theirs = optuna.load_study(study_name=row.name, storage=database.rdb).trials
    for ours in found.trials:
        assert ours.feasible == all(v <= 0 for v in theirs[ours.number].constraints.values())
        assert dict(ours.constraints) == theirs[ours.number].constraints


def test_an_infeasible_trial_meets_no_target(database: Database, party: Opener) -> None:
    row = make_study(database, 9, budget_target=0.9, **spec("maximize"))
    one = party(row)
    deliver(one, 5.0, c=0.1)
    assert state_of(database, row) is StudyState.RUNNING
    database.write(lambda c: studies.extend(c, row.id, [None], cells=False, target=0.8))
    assert state_of(database, row) is StudyState.RUNNING, "nor one that is looked at again"
    deliver(one, 0.85, c=0.0)
    assert state_of(database, row) is StudyState.FINISHED
    assert studies_why(database, row) == "target reached"


def studies_why(database: Database, row: StudyRow) -> str | None:
    return database.read(lambda c: studies.get(c, row.name)).ended_why


def test_what_an_attempt_said_that_was_lost_does_not_count(database: Database, party: Opener) -> None:
    """Also where version 0.1 had written it at once: a take-over clears it."""
    row = make_study(database, 2, **spec("minimize"))
    one = party(row)
    claim, _ = one.begin()
    one.writer.set_attribute("system", "constraints:c", 3.0)
    let_expire(database)
    again, _ = one.begin()
    assert again.number == claim.number
    one.complete(1.0)
    best = history(database, row.name).best
    assert best is not None
    assert best.constraints == {}


def test_feasible_trials_keep_their_weights_before_others(
    database: Database, party: Opener, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    row = make_study(database, 9, **spec("maximize"))
    one = party(row)
    for value, broken in ((9.0, 1.0), (8.0, 0.1), (1.0, 0.0), (2.0, -1.0)):
        finished(one, store, value, constraints={"c": broken})
        retention.prune(database, store, row, lambda: 2)
    assert weights(database, store, row)[0] == [2, 3]
    retention.prune(database, store, row, lambda: 2)


def test_a_front_of_feasible_trials_keeps_its_weights(
    database: Database, party: Opener, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    row = make_study(database, 9, **spec("maximize", "minimize"))
    one = party(row)
    finished(one, store, 9.0, 0.0, constraints={"c": 1.0})
    retention.prune(database, store, row, lambda: 2)
    assert weights(database, store, row)[0] == [0], "while every one is infeasible, their front"
    finished(one, store, 1.0, 1.0)
    finished(one, store, math.inf, 2.0)
    retention.prune(database, store, row, lambda: 2)
    assert weights(database, store, row)[0] == [1]


def test_a_study_of_infeasible_trials_alone_says_so(database: Database, party: Opener) -> None:
    row = make_study(database, 2, **STORED)
    one = party(row)
    deliver(one, 1.0, size=2.0)
    deliver(one, 2.0, size=1.0)
    sentence = "has no feasible trial: each of the 2 that completed breaks the constraint size"
    assert why_no_best(history(database, row.name)) == sentence
    with pytest.raises(HpoError, match=sentence):
        evaluate(database, row, Path())


def test_another_study_starts_from_feasible_points_and_knows_what_broke(
    database: Database, party: Opener
) -> None:
    row = make_study(database, 3, **STORED)
    one = party(row)
    for x, value, broken in ((0.1, 1.0, 0.5), (0.2, math.inf, 0.0), (0.3, 2.0, -1.0)):
        claim = one.claim()
        one.start(claim, x=x)
        one.writer.deliver(TicketState.COMPLETE, (value,), constraints={"c": broken})
    new = parse_spec({**SPEC, "study": "new"})
    warm = warm_start(database, new, "study", 3)
    assert warm.points == ({"x": 0.3},)
    assert any("1 of its complete trials break a constraint" in note for note in warm.notes)
    found = prior_trials(new, warm.prior)
    assert [trial.constraints for trial in found] == [{"c": 0.5}, {"c": 0.0}, {"c": -1.0}]
    assert found[1].value == math.inf


def test_constraints_survive_export_and_import(database: Database, party: Opener, tmp_path: Path) -> None:
    """From Optuna's tables, from our table, and from Optuna's; so does an infinite value."""
    row = make_study(database, 4, **STORED)
    one = party(row)
    deliver(one, 1.0, size=2.0)
    deliver(one, math.inf, size=-math.inf, time=0.0)
    deliver(one, 3.0)
    one.begin()
    one.writer.set_attribute("system", "constraints", [0.5])
    one.complete(0.0)
    ours = history(database, row.name)
    wanted = [(trial.values, dict(trial.constraints)) for trial in ours.trials]
    optunas = optuna.load_study(study_name=row.name, storage=database.rdb).trials_dataframe()
    optunas.to_csv(tmp_path / "optunas.csv", index=False)
    export(ours, tmp_path / "ours.csv")
    export(ours, tmp_path / "ours.json")
    stored = json.loads((tmp_path / "ours.json").read_text(), parse_constant=pytest.fail)
    assert [trial["feasible"] for trial in stored] == [False, True, True, False]
    assert answers.plain(answers.trial(ours.trials[1]))["values"] == [None]
    settings = Settings(artifacts="memory://imported")
    source = read_optuna(database.url.render_as_string(hide_password=False), row.name)
    spec_, _ = derived_spec(source, "from-optuna", None)
    import_study(database, settings, spec_, source)
    for name in ("ours", "optunas"):
        table = parse_spec({**SPEC, "study": f"from-{name}"})
        import_study(database, settings, table, read_csv(tmp_path / f"{name}.csv", table))
    for name in ("optuna", "ours", "optunas"):
        found = history(database, f"from-{name}")
        assert found.best is not None
        assert found.best.number == 2
        assert [(trial.values, dict(trial.constraints)) for trial in found.trials] == wanted
