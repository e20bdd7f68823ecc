"""Records of parameters: axes, importances, slices, parallel coordinates, contour."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.report.records import landscape, parameters, summary
from hpo.report.records.scores import best_numbers, once
from storage.history.records import StudyHistory
from tests.report.histories import searched, study, trial


def one_that_matters(n: int = 80, seed: int = 0) -> StudyHistory:
    """Only `x` decides; `y` and `kind` are noise, and `extra` exists for half of the trials."""
    rng = random.Random(seed)
    trials = []
    for number in range(n):
        params = {"y": rng.random(), "x": rng.random(), "kind": rng.choice(["a", "b"])}
        distributions = {
            "y": FloatDistribution(0, 1),
            "x": FloatDistribution(0, 1),
            "kind": CategoricalDistribution(["a", "b"]),
        }
        if params["kind"] == "a":
            params["extra"] = rng.random()
            distributions["extra"] = FloatDistribution(0, 1)
        value = -((params["x"] - 0.3) ** 2)
        trials.append(trial(number, value, params=params, distributions=distributions))
    return study(*trials)


def test_charts_that_ask_at_once_for_the_same_have_it_worked_out_once() -> None:
    """Six slices are asked for together; each thread beside the first would only take time from it."""
    began, asked = threading.Event(), []

    @once
    def slow(history: StudyHistory, objective: int) -> str:
        asked.append((history.name, objective))
        began.wait(60)
        return f"{history.name} {objective}"

    one = searched(5)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(slow, one, 0) for _ in range(4)]
        began.set()
        assert {answer.result(60) for answer in answers} == {f"{one.name} 0"}
    assert len(asked) == 1
    slow(one, 1)
    slow(replace(one), 0)  # equal, but another history: to find that out would take longer
    assert len(asked) == 3


def test_a_question_that_names_a_default_is_the_same_question() -> None:
    """A server that had importances worked out beforehand had them worked out again for the first chart."""
    asked = []

    @once
    def counted(history: StudyHistory, objective: int = 0, *, pruned: bool = True) -> int:
        asked.append((objective, pruned))
        return objective

    one = searched(5)
    assert counted(one) == counted(one, 0) == counted(one, objective=0, pruned=True) == 0
    assert counted(one, 1) == 1
    assert asked == [(0, True), (1, True)]


def test_what_is_asked_of_one_study_does_not_wait_for_what_is_asked_of_another() -> None:
    began, done = threading.Event(), threading.Event()

    @once
    def slow(history: StudyHistory) -> bool:
        began.set()
        return history.name != "first" or done.wait(60)

    one = searched(5)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(slow, replace(one, name="first"))
        assert began.wait(60)
        assert slow(replace(one, name="second"))
        done.set()
        assert waits.result(60), "nobody had to wait until it gave up"


def test_axes_know_scale_range_and_how_many_trials_used_them() -> None:
    found = {axis.name: axis for axis in parameters.axes(searched(60))}
    assert (found["lr"].kind, found["lr"].log, found["lr"].low, found["lr"].high) == (
        "float",
        True,
        1e-4,
        0.3,
    )
    assert (found["hidden"].kind, found["layers"].kind) == ("int", "int")
    assert found["optimizer"].choices == ("sgd", "momentum", "adam", "adamw")
    assert found["norm"].choices == ("True", "False")
    assert 0 < found["momentum"].active < found["lr"].active == 60


def test_a_place_on_an_axis_goes_there_and_back() -> None:
    axis = parameters.Axis("lr", "float", 1e-4, 1.0, log=True)
    assert axis.unit(1e-2) == pytest.approx(0.5)
    assert axis.at(0.5) == pytest.approx(1e-2)
    assert axis.unit(float("nan")) is None


def test_a_range_that_changed_between_trials_becomes_the_widest() -> None:
    history = study(
        trial(0, 1.0, params={"n": 3}, distributions={"n": IntDistribution(1, 5)}),
        trial(1, 1.0, params={"n": 9}, distributions={"n": IntDistribution(4, 12)}),
    )
    (axis,) = parameters.axes(history)
    assert (axis.kind, axis.low, axis.high) == ("int", 1, 12)


def test_a_parameter_that_changed_its_type_becomes_categorical() -> None:
    history = study(trial(0, 1.0, params={"width": 3}), trial(1, 1.0, params={"width": "wide"}))
    (axis,) = parameters.axes(history)
    assert (axis.kind, axis.choices) == ("categorical", ("3", "wide"))


def test_the_parameter_that_decides_is_most_important() -> None:
    record = parameters.importances(one_that_matters())
    assert record.entries[0].name == "x"
    assert record.entries[0].share > 0.5
    assert sum(entry.share for entry in record.entries) == pytest.approx(1)


def test_a_parameter_without_effect_is_called_noise_and_one_with_effect_is_not() -> None:
    """In 10 planted studies; a third of the trials gather around the best, as samplers have it."""
    called = Counter(
        entry.name
        for seed in range(10)
        for entry in parameters.importances(planted(seed)).entries
        if entry.noise
    )
    assert called["strong"] == 0
    assert called["weak"] <= 1
    assert min(called["moved along"], called["kind"], called["count"]) >= 9


def planted(seed: int, n: int = 60) -> StudyHistory:
    """`strong` and `weak` decide; `moved along` is noise, drawn near the best trial's when they are."""
    rng = random.Random(seed)
    best, trials = None, []
    for number in range(n):
        if best and number % 3 == 2:
            params = {
                k: min(1.0, max(0.0, rng.gauss(best[1][k], 0.1))) for k in ("strong", "weak", "moved along")
            }
        else:
            params = {name: rng.random() for name in ("strong", "weak", "moved along")}
        value = -3 * (params["strong"] - 0.3) ** 2 - 0.4 * params["weak"] + rng.gauss(0, 0.05)
        best = max(best or (value, params), (value, params), key=lambda found: found[0])
        others = {"kind": rng.choice("abc"), "count": rng.randint(1, 8)}
        trials.append(trial(number, value, params=params | others))
    return study(*trials)


def test_importances_of_ten_thousand_trials_are_measured_on_some_of_them() -> None:
    record = parameters.importances(searched(10_000, epochs=1, prune=False, evaluated=False))
    assert "Over 200 of 10,000 trials" in record.note
    (lead,) = [entry.name for entry in parameters.importances(searched(200, prune=False)).entries][:1]
    assert lead == "lr"


def test_the_path_to_the_winner_changes_first_what_matters_most() -> None:
    history = searched(120, prune=False, learns=False)
    record = landscape.path(history)
    assert record is not None
    assert record.steps[1].change.startswith("lr ")
    assert record.steps[1].gain > record.steps[1].spread
    assert record.steps[1].gain > max(step.gain for step in record.steps[2:])
    (optimizer,) = [step.change for step in record.steps if "optimizer" in step.change]
    assert record.steps[-1].value == pytest.approx(history.best.value, abs=0.05)
    first, best = history.trials[0].params, history.best.params
    assert ("momentum" in optimizer) == (("momentum" in first) != ("momentum" in best))


def test_there_is_no_path_where_the_first_setting_is_the_best() -> None:
    history = study(*(trial(n, -float(n), params={"x": n / 10}) for n in range(10)))
    assert landscape.path(history) is None
    assert landscape.path(study()) is None


def test_importances_are_the_same_every_time() -> None:
    assert parameters.importances(searched(120)) == parameters.importances(searched(120))


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (study(), "No parameter"),
        (study(*(trial(n, None, "failed", params={"x": n}) for n in range(20))), "at least 8"),
        (study(*(trial(n, 0.5, params={"x": n}) for n in range(20))), "same value"),
        (study(*(trial(n, float(n), params={"x": 1}) for n in range(20))), "No parameter"),
    ],
)
def test_importances_that_cannot_be_told_say_why(history: StudyHistory, reason: str) -> None:
    record = parameters.importances(history)
    assert record.entries == ()
    assert reason in record.note


def test_each_objective_has_importances_of_its_own() -> None:
    rng = random.Random(1)
    points = [{"x": rng.random(), "y": rng.random()} for _ in range(100)]
    history = study(
        *(trial(n, (p["x"], p["y"]), params=p) for n, p in enumerate(points)),
        directions=("maximize", "minimize"),
    )
    assert parameters.importances(history, 0).entries[0].name == "x"
    assert parameters.importances(history, 1).entries[0].name == "y"


def test_slices_hold_only_trials_that_used_the_parameter() -> None:
    by_name = {record.parameter.name: record for record in landscape.slices(one_that_matters())}
    assert len(by_name["x"].points) == 80
    assert 0 < len(by_name["extra"].points) < 80
    assert sum(point.best for point in by_name["x"].points) == 1
    assert [record.parameter.name for record in landscape.slices(one_that_matters(), 0, "extra")] == ["extra"]
    assert landscape.slices(one_that_matters(), 0, "nix") == ()


def test_a_choice_has_a_box_of_its_complete_trials_where_they_are_enough() -> None:
    """Of all of them, not of those drawn, among which the best always are; pruned ones do not count."""
    many = [trial(n, float(n), params={"k": "a"}) for n in range(1001)]
    pruned = [trial(n, None, "pruned", params={"k": "a"}, reports={1: -9.0}) for n in range(1001, 1100)]
    few = [trial(n, 0.5, params={"k": "b"}) for n in range(1100, 1104)]
    (found,) = landscape.slices(study(*many, *pruned, *few))
    assert found.boxes == ((0.0, 50.0, 250.0, 500.0, 750.0, 950.0),)


def test_parallel_lines_leave_a_gap_for_parameters_not_used() -> None:
    record = landscape.parallel(one_that_matters())
    assert record is not None
    column = [axis.name for axis in record.parameters].index("extra")
    assert any(line.units[column] is None for line in record.lines)
    assert record.lines[-1].rank == "best"


def test_contour_is_of_two_parameters_and_never_larger_than_its_grid() -> None:
    record = landscape.contour(searched(1000))
    assert record is not None
    assert len(record.values) <= 32
    assert all(len(row) <= 32 for row in record.values)
    assert any(value is None for row in record.values for value in row)


def test_of_many_trials_contour_slices_and_lines_show_the_best_always() -> None:
    history = searched(1000, prune=False)
    best = best_numbers(history, 0)
    contour = landscape.contour(history)
    assert contour is not None
    assert len(best) == 50
    assert best <= {number for number, *_ in contour.points}
    lines = landscape.parallel(history)
    assert lines is not None
    assert best <= {line.number for line in lines.lines}
    assert lines.note.startswith(f"{len(lines.lines)} of 968 trials shown, the best 50 and others evenly")
    for one in landscape.slices(history):
        using = {trial.number for trial in history.trials if one.parameter.name in trial.params}
        assert best & using <= {point.number for point in one.points}


def test_pruned_trials_whose_last_report_was_better_do_not_hide_the_best_one() -> None:
    promising = [trial(n, None, "pruned", params={"x": n}, reports={1: 9.0}) for n in range(400)]
    history = study(*promising, *(trial(n, n / 1000, params={"x": n}) for n in range(400, 800)))
    (one,) = landscape.slices(history)
    lines = landscape.parallel(history)
    assert lines is not None
    assert [point.number for point in one.points if point.best] == [799]
    assert [line.number for line in lines.lines if line.rank == "best"] == [799]


def test_contour_finds_the_valley() -> None:
    record = landscape.contour(one_that_matters(300), pair=("x", "y"))
    assert record is not None
    middle = record.values[len(record.values) // 2]
    best = max(range(len(middle)), key=lambda column: middle[column] if middle[column] is not None else -9.0)
    assert record.grid_x[best] == pytest.approx(0.3, abs=0.1)


def test_contour_needs_eight_trials_with_both_parameters() -> None:
    assert landscape.contour(one_that_matters(7)) is None
    assert landscape.contour(one_that_matters(300), pair=("x", "x")) is None
    assert landscape.contour(one_that_matters(300), pair=("x", "nix")) is None
    half = landscape.contour(one_that_matters(300), pair=("y", ""))
    assert half is not None
    assert (half.x.name, half.y.name) == ("y", "x")
    assert landscape.contour(study()) is None


@pytest.mark.parametrize("n", [1000, 10_000])
def test_records_of_large_studies_are_capped(n: int) -> None:
    history = searched(n, epochs=1, prune=False, evaluated=False)
    lines = landscape.parallel(history)
    assert lines is not None
    assert len(lines.lines) <= 251
    assert all(len(record.points) <= 801 for record in landscape.slices(history))
    table = summary.trial_table(history)
    assert len(table.rows) == 1000
    assert (f"of {n:,} trials" in table.note) is (n > 1000)
