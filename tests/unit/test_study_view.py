"""Samplers and pruners decide from a view of known trials as they do from Optuna's own storage."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import HpoError
from hpo.search.pruners import make_pruner
from hpo.search.samplers import make_sampler, needs_stored_trial, suggest
from hpo.search.space import distribution, random_point
from hpo.search.view import StudyView
from hpo.spec import StudySpec
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.history.known import KnownTrials
from storage.queue.optuna_rows import DIVERGED
from tests.support.pruning import for_pruner
from tests.support.sampling import loss, provisional, spec

names = (f"study-{number}" for number in itertools.count())
SAMPLERS: list[Any] = [
    "random",
    {"name": "tpe", "n_startup_trials": 5, "constant_liar": True},
    {"name": "tpe", "n_startup_trials": 5, "constant_liar": True, "multivariate": True, "group": True},
    {"name": "gp", "n_startup_trials": 5},
    {"name": "cmaes", "n_startup_trials": 3, "popsize": 4},
    {"name": "nsga2", "population_size": 5},
    {"name": "nsga3", "population_size": 5},
]
PRUNERS: list[Any] = [
    {"name": "wilcoxon", "p_threshold": 0.3},
    {"name": "median", "n_startup_trials": 2},
    {"name": "percentile", "percentile": 25, "n_startup_trials": 2},
    {"name": "asha", "min_epochs": 1, "max_epochs": 8, "reduction_factor": 2},
    {"name": "hyperband", "min_epochs": 1, "max_epochs": 8, "reduction_factor": 2},
    {"name": "patient", "patience": 1, "wrapped": "median"},
    {"name": "threshold", "upper": 0.9},
]


class Keeping(StudyView):
    """A view whose samplers and pruners may note something on the trials of this process."""

    def __init__(self, known: KnownTrials, study: optuna.Study) -> None:
        directions = [direction.name.lower() for direction in study.directions]
        super().__init__(study.study_name, study._study_id, directions, known.trials, known.get)
        self.known = known
        self.attrs: dict[str, Any] = {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self.attrs)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.attrs[key] = value  # NSGA-II notes the parents of each generation

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self.get_trial(trial_id)
        trial.system_attrs[key] = value
        self.known.put(trial)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('db') / 'hpo.db'}")
    yield opened
    opened.close()


def new_study(database: Database, made: StudySpec) -> optuna.Study:
    return optuna.create_study(
        study_name=next(names),
        storage=database.rdb,
        directions=list(made.directions),
        pruner=make_pruner(made),
    )


def viewed(database: Database, study: optuna.Study) -> tuple[KnownTrials, optuna.Study]:
    """The same study, over trials that were read once."""
    known = KnownTrials(study._study_id)
    database.read(known.refresh)
    view = Keeping(known, study)
    return known, optuna.load_study(study_name=study.study_name, storage=view, pruner=study.pruner)


def record(study: optuna.Study, made: StudySpec, count: int) -> None:
    """Trials of every end at random points; every sixth still runs."""
    for number in range(count):
        point = random_point(made, 1, number)
        dists = {name: distribution(made.space[name]) for name in point}
        fields: dict[str, Any] = {"params": point, "distributions": dists}
        reports = {1: loss(point) + 1, 3: math.nan if number % 4 == 0 else loss(point)}
        match number % 6:
            case 0:
                fields |= {"state": TrialState.RUNNING}
            case 1:
                fields |= {"state": TrialState.PRUNED, "intermediate_values": reports}
            case 2:
                fields |= {"state": TrialState.FAIL, "system_attrs": {DIVERGED: True}}
            case _:
                fields |= {"value": loss(point), "intermediate_values": reports}
        study.add_trial(create_trial(**fields))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_sampler_chooses_the_same_point(database: Database, sampler: Any) -> None:
    """Ticket after ticket, each choice becoming history; some of it by increments."""
    made = spec(sampler)
    study = new_study(database, made)
    record(study, made, 24)
    known, view = viewed(database, study)
    points = []
    for ticket in range(24, 27 if made.sampler.name == "gp" else 34):
        trial = seen = provisional(ticket)
        if needs_stored_trial(made):
            trial_id = study._storage.create_new_trial(study._study_id)
            database.read(known.refresh)
            trial, seen = study._storage.get_trial(trial_id), view._storage.get_trial(trial_id)
        theirs = suggest(made, study, trial, ticket, {})
        assert suggest(made, view, seen, ticket, {}) == theirs
        points.append(theirs)
        end(study, trial._trial_id, theirs)
        if trial._trial_id >= 0:
            known.drop(trial._trial_id)
        database.read(known.refresh)
    assert len({repr(point) for point in points}) == len(points)


def end(study: optuna.Study, trial_id: int, point: dict[str, Any]) -> None:
    """Store that the trial of this point completed."""
    made = spec("random")
    dists = {name: distribution(made.space[name]) for name in point}
    if trial_id < 0:
        study.add_trial(create_trial(value=loss(point), params=point, distributions=dists))
        return
    for name, value in point.items():
        internal = dists[name].to_internal_repr(value)
        study._storage.set_trial_param(trial_id, name, internal, dists[name])
    study._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [loss(point)])


def test_a_sampler_chooses_the_same_for_an_objective_that_suggests_for_itself(database: Database) -> None:
    """Each parameter of a running trial is asked for by itself."""
    made = spec({"name": "tpe", "n_startup_trials": 5})
    study = new_study(database, made)
    record(study, made, 24)
    _, view = viewed(database, study)
    found = []
    for one in (study, view):
        sampler = make_sampler(made, 24)
        dist = distribution(made.space["lr"])
        trial = provisional(24)
        found.append(sampler.sample_independent(one, trial, "lr", dist))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:All-NaN slice")
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["name"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_pruner_decides_the_same(database: Database, pruner: Any, direction: str) -> None:
    """This process keeps what it reports and notes at rungs; of every third trial it learns by reading."""
    made = spec("random", pruner=pruner, direction=direction)
    study = new_study(database, made)
    known, view = viewed(database, study)
    draws = random.Random(0)
    decisions = []
    for number in range(15):
        trial = study.ask({"lr": FloatDistribution(0.0, 1.0)})
        database.read(known.refresh)
        mine = known.get(trial._trial_id)
        level = draws.random()
        pruned = False
        for epoch in range(1, 9):
            value = math.nan if draws.random() < 0.03 else level + draws.random() / 5
            trial.report(value, epoch)
            mine = reported(known, mine._trial_id, epoch, value)
            pruned = study.pruner.prune(for_pruner(study), study._storage.get_trial(trial._trial_id))
            assert view.pruner.prune(for_pruner(view), mine) == pruned
            decisions.append(pruned)
            if pruned:
                break
        if number % 3 == 2:
            known.drop(trial._trial_id)
        if number % 5 != 4:
            study.tell(trial, None if pruned else level, TrialState.PRUNED if pruned else None)
        database.read(known.refresh)
    assert set(decisions) == {True, False}


def reported(known: KnownTrials, trial_id: int, step: int, value: float) -> FrozenTrial:
    """The trial with one more report of this process."""
    mine = copy.deepcopy(known.get(trial_id))
    mine.intermediate_values[step] = value
    known.put(mine)
    return known.get(trial_id)


# The view itself


def trials() -> list[FrozenTrial]:
    made = []
    for number, state in enumerate((TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE)):
        value = float(number) if state is TrialState.COMPLETE else None
        trial = create_trial(
            state=state,
            value=value,
            user_attrs={"note": ["a"]},
            params={"x": 0.5},
            distributions={"x": FloatDistribution(0.0, 1.0)},
        )
        trial.number, trial._trial_id = number, 10 + number
        made.append(trial)
    return made


def view_of(made: list[FrozenTrial]) -> StudyView:
    by_id = {trial._trial_id: trial for trial in made}
    return StudyView("s", 7, ["maximize"], lambda: list(made), by_id.__getitem__)


def test_it_is_the_one_study() -> None:
    view = view_of(trials())
    assert view.get_study_id_from_name("s") == 7
    assert view.get_study_name_from_id(7) == "s"
    assert view.get_study_directions(7) == [StudyDirection.MAXIMIZE]
    assert view.get_study_user_attrs(7) == view.get_study_system_attrs(7) == {}
    assert [study.study_name for study in view.get_all_studies()] == ["s"]
    study = optuna.load_study(study_name="s", storage=view)
    assert study.best_trial.number == 2
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    with pytest.raises(KeyError, match="other"):
        view.get_study_id_from_name("other")
    for ask in (view.get_study_name_from_id, view.get_study_directions, view.get_all_trials):
        with pytest.raises(KeyError, match="8"):
            ask(8)


def test_trials_are_picked_by_state_and_copied_when_that_is_asked_for() -> None:
    made = trials()
    view = view_of(made)
    assert [t is m for t, m in zip(view.get_all_trials(7, deepcopy=False), made, strict=True)] == [True] * 3
    copied = view.get_all_trials(7, states=[TrialState.FAIL])
    assert copied == [made[1]]
    for one in (copied[0], view.get_trial(11)):
        one.user_attrs["note"].append("b")
        one.params["x"] = 0.0
        del one.distributions["x"]
    made[1].system_attrs["marks"] = [1]
    view.get_trial_system_attrs(11)["marks"].append(2)
    assert made[1].system_attrs == {"marks": [1]}
    assert made[1].user_attrs == {"note": ["a"]}
    assert made[1].params == {"x": 0.5}
    assert set(made[1].distributions) == {"x"}
    assert [view.get_n_trials(7, state) for state in (None, TrialState.FAIL, (TrialState.PRUNED,))] == [
        3,
        1,
        0,
    ]


def test_a_trial_is_found_by_its_number_wherever_it_stands() -> None:
    view = view_of(trials()[1:])
    assert view.get_trial_id_from_study_id_trial_number(7, 2) == 12
    assert view.get_trial_number_from_id(11) == 1
    assert view.get_trial_param(12, "x") == 0.5
    with pytest.raises(KeyError, match="no trial 0"):
        view.get_trial_id_from_study_id_trial_number(7, 0)
    with pytest.raises(KeyError):
        view.get_trial(10)


WRITES: dict[str, tuple[Any, ...]] = {
    "create_new_study": ([StudyDirection.MINIMIZE], "t"),
    "delete_study": (7,),
    "set_study_user_attr": (7, "k", 1),
    "set_study_system_attr": (7, "k", 1),
    "create_new_trial": (7,),
    "set_trial_param": (10, "x", 0.5, FloatDistribution(0.0, 1.0)),
    "set_trial_state_values": (10, TrialState.COMPLETE, [1.0]),
    "set_trial_intermediate_value": (10, 1, 0.5),
    "set_trial_user_attr": (10, "k", 1),
    "set_trial_system_attr": (10, "k", 1),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written(write: str) -> None:
    with pytest.raises(HpoError, match=r"study s is open for reading only: it is not possible to \w+ "):
        getattr(view_of(trials()), write)(*WRITES[write])


def test_every_write_of_optunas_storages_is_refused_by_name() -> None:
    """One that Optuna adds is noticed here."""
    abstract = optuna.storages.BaseStorage.__abstractmethods__
    assert {name for name in abstract if not name.startswith("get_")} == set(WRITES)


def test_it_cannot_be_sent_to_another_process() -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        pickle.dumps(view_of(trials()))


def test_a_runner_imports_it_without_pydantic_or_sqlalchemy() -> None:
    code = """if True:
        import sys, hpo.search.view
        heavy = [m for m in sys.modules if m.split(".")[0] in ("pydantic", "sqlalchemy") or m == "hpo.spec"]
        assert not heavy, heavy"""
    subprocess.run([sys.executable, "-c", code], check=True)
