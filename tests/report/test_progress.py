"""Records of how a search went: best so far, history, distribution, Pareto front, timeline, curves."""

from __future__ import annotations

import math

import pytest

from hpo.report.drawing import theme
from hpo.report.drawing.progress import history_figure
from hpo.report.drawing.training import learning_figure, metrics_figure
from hpo.report.records import landscape, progress, scores, summary, training
from hpo.studies import answers, exporting
from storage.database.records import AttemptState
from tests.report.histories import searched, span, study, trial

NAN, INF = math.nan, math.inf


def test_of_tied_trials_the_lowest_number_is_best() -> None:
    history = study(trial(0, 0.5), trial(1, 0.9), trial(2, 0.9))
    best = history.best
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize(("direction", "number"), [("maximize", 2), ("minimize", 0)])
def test_best_follows_the_direction(direction: str, number: int) -> None:
    history = study(trial(0, -1.0), trial(1, 0.0), trial(2, 3.0), directions=(direction,))  # type: ignore[arg-type]
    best = history.best
    assert best is not None
    assert best.number == number


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_value_that_is_not_finite_is_never_best(value: float, direction: str) -> None:
    history = study(trial(0, value), trial(1, 0.1), directions=(direction,))  # type: ignore[arg-type]
    best = history.best
    assert best is not None
    assert best.number == 1


def test_pruned_trials_count_with_their_last_finite_report_and_are_marked() -> None:
    pruned = trial(0, None, "pruned", reports={1: 0.2, 2: 0.4, 3: NAN})
    found = scores.scores(study(pruned, trial(1, 0.9)))
    assert [(score.value, score.pruned) for score in found] == [(0.4, True), (0.9, False)]


def test_a_pruned_trial_is_never_best_so_far() -> None:
    history = study(trial(0, 0.5), trial(1, None, "pruned", reports={1: 0.99}))
    best = progress.best_so_far(history)
    assert best is not None
    assert best.value == (0.5,)
    assert best.end == 1


def test_best_so_far_holds_only_improvements() -> None:
    history = study(*(trial(n, v) for n, v in enumerate([0.5, 0.4, 0.5, 0.7, 0.6])))
    best = progress.best_so_far(history)
    assert best is not None
    assert (best.x, best.value, best.end) == ((0, 3), (0.5, 0.7), 4)


def test_over_seconds_trials_count_when_they_end() -> None:
    late_first = study(trial(0, 0.9, at=0, seconds=100), trial(1, 0.5, at=1, seconds=5))
    best = progress.best_so_far(late_first, "seconds")
    assert best is not None
    assert (best.x, best.value) == ((6, 100), (0.5, 0.9))


def test_over_epochs_pruned_and_failed_trials_cost_what_they_trained() -> None:
    history = study(
        trial(0, None, "pruned", reports={1: 0.1, 2: 0.2}),
        trial(1, None, "failed", reports={1: 0.1}),
        trial(2, 0.8, reports={1: 0.5, 2: 0.7, 3: 0.8}),
    )
    best = progress.best_so_far(history, "epochs")
    assert best is not None
    assert (best.x, best.value) == ((6,), (0.8,))


def test_best_so_far_is_none_where_there_is_nothing_to_draw() -> None:
    assert progress.best_so_far(study()) is None
    assert progress.best_so_far(study(trial(0, None, "failed"))) is None
    assert progress.best_so_far(study(trial(0, 0.5)), "epochs") is None


def test_history_of_10000_trials_is_thinned_but_keeps_every_improvement() -> None:
    history = study(*(trial(n, math.sin(n) + n / 5000) for n in range(10_000)))
    record = progress.optimization_history(history)
    assert len(record.points) <= scores.MAX_POINTS + 500
    assert record.best is not None
    assert set(record.best.x) <= {point.number for point in record.points}
    assert "of 10,000 trials shown" in record.note


def test_edf_rises_to_one_over_sorted_values() -> None:
    record = progress.edf(study(trial(0, 0.3), trial(1, 0.1), trial(2, INF), trial(3, 0.2)))
    assert record is not None
    assert record.value == (0.1, 0.2, 0.3)
    assert record.share == pytest.approx((1 / 3, 2 / 3, 1))


def test_pareto_front_is_what_nothing_dominates() -> None:
    history = study(
        trial(0, (0.9, 5.0)),
        trial(1, (0.8, 2.0)),
        trial(2, (0.8, 3.0)),  # dominated by 1
        trial(3, (0.9, 5.0)),  # equal to 0: neither dominates
        trial(4, (NAN, 0.0)),
        trial(5, None, "failed"),
        directions=("maximize", "minimize"),
    )
    record = progress.pareto(history)
    assert record is not None
    assert [point.number for point in record.front] == [0, 1, 3]
    assert len(record.points) == 4


def test_pareto_front_of_three_directions_agrees_with_the_definition() -> None:
    values = [((n * 37 % 11) / 10, (n * 53 % 13) / 10, (n * 29 % 7) / 10) for n in range(60)]
    history = study(
        *(trial(n, v) for n, v in enumerate(values)), directions=("minimize", "minimize", "minimize")
    )
    record = progress.pareto(history)
    assert record is not None
    expected = [
        n
        for n, v in enumerate(values)
        if not any(o != v and all(a <= b for a, b in zip(o, v, strict=True)) for o in values)
    ]
    assert [point.number for point in record.front] == expected


def test_one_direction_has_no_pareto_front() -> None:
    assert progress.pareto(study(trial(0, 1.0))) is None


def test_timeline_has_a_lane_per_runner_in_natural_order_and_ends_running_bars_now() -> None:
    history = study(
        trial(0, 0.1, runner="gpu-10:5/0", at=0, seconds=10),
        trial(1, 0.1, runner="gpu-2:5/0", at=0, seconds=30),
        trial(2, None, "running", runner="gpu-2:5/0", at=12),
        trial(3, None, "waiting"),
    )
    record = progress.timeline(history)
    assert record is not None
    assert record.lanes == ("gpu-2:5/0", "gpu-10:5/0")
    assert [(bar.number, bar.start, bar.end) for bar in record.bars] == [(0, 0, 10), (1, 0, 30), (2, 12, 30)]


TWICE = (span(1, "failed", 0, 0.5, "box:1/0"), span(2, "failed", 30, 30.25, "box:2/1"))


def test_timeline_draws_each_attempt_where_and_while_it_worked() -> None:
    """Two failures of under a second, half a minute apart, are two short bars on two lanes."""
    record = progress.timeline(study(trial(0, None, "failed", at=0, seconds=30.25, spans=TWICE)))
    assert record is not None
    bars = [(bar.lane, bar.attempt, bar.start, bar.end, bar.state) for bar in record.bars]
    assert bars == [("box:1/0", 1, 0, 0.5, "failed"), ("box:2/1", 2, 30, 30.25, "failed")]


def test_timeline_shows_what_a_trial_that_waits_again_has_tried() -> None:
    record = progress.timeline(study(trial(0, None, "waiting", at=0, spans=TWICE[:1])))
    assert record is not None
    assert [(bar.attempt, bar.end) for bar in record.bars] == [(1, 0.5)]


def test_a_trials_time_is_time_worked_wherever_it_is_told() -> None:
    """The waits between attempts count in the study's wall time alone."""
    history = study(trial(0, None, "failed", at=0, seconds=30.25, spans=TWICE))
    assert summary.trial_table(history).rows[0].seconds == 0.75
    assert summary.summarize(history).busy_seconds == 0.75
    assert summary.summarize(history).seconds == 30.25
    assert exporting.flat_rows(history)[0]["seconds"] == 0.75
    assert answers.trial(history.trials[0]).seconds == 0.75


def test_the_time_of_a_trial_that_runs_is_not_known_yet() -> None:
    running = (TWICE[0], span(2, "running", 30))
    assert trial(0, None, "running", spans=running).seconds is None


def test_every_end_of_an_attempt_can_be_drawn() -> None:
    assert theme.ATTEMPT_LOOKS.keys() == set(AttemptState)
    assert len(set(theme.ATTEMPT_LOOKS.values())) == len(theme.ATTEMPT_LOOKS)


def test_learning_curves_leave_out_what_is_not_finite_and_say_so() -> None:
    history = study(
        trial(0, 0.5, reports={1: 0.1, 2: NAN, 3: 0.5}), trial(1, None, "failed", reports={1: INF})
    )
    record = training.learning_curves(history)
    assert record is not None
    (curve,) = record.curves
    assert (curve.steps, curve.values, curve.broken, curve.best) == ((1, 3), (0.1, 0.5), True, True)


def test_a_few_learning_curves_are_told_apart_and_none_is_out_of_sight() -> None:
    """Who compares three trials sees all of them, each by its own name and look."""
    few = study(
        *(trial(n, n / 9, reports={1: n / 10, 2: n / 9}) for n in (1, 2, 9)),
        trial(7, None, "pruned", reports={1: -50.0}),
    )
    record = training.learning_curves(few)
    assert record is not None
    figure = learning_figure(record, "")
    assert [trace.name for trace in figure.data] == ["trial 1", "trial 2", "trial 7, pruned", "best: trial 9"]
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 4
    assert not figure.layout.annotations


def test_a_metric_that_never_changes_is_a_line_at_its_value() -> None:
    constant = training.Metrics("lr", "epoch", (training.MetricCurve("lr", (1, 2, 3), (0.01, 0.01, 0.01)),))
    low, high = metrics_figure(constant, "lr").layout.yaxis.range
    assert 0.009 < low < 0.01 < high < 0.011


def test_learning_curves_of_1000_trials_are_capped_and_keep_the_best() -> None:
    record = training.learning_curves(searched(1000))
    assert record is not None
    assert len(record.curves) <= 301
    assert sum(curve.best for curve in record.curves) == 1
    assert "of 1,000 curves shown" in record.note


def test_an_epoch_that_orders_trials_as_the_end_does_is_told_from_one_that_does_not() -> None:
    """Trials that were pruned, and steps that few came to, are left out."""
    trials = [trial(n, float(n), reports={1: -float(n), 2: float(n % 8), 3: n / 2}) for n in range(16)]
    record = training.foresight(study(*trials, trial(16, None, "pruned", reports={1: 99.0})))
    assert record is not None
    every, better = record.curves
    assert (every.name, every.steps) == ("all complete trials", (1, 2, 3))
    assert every.values == pytest.approx((-1.0, 0.5, 1.0), abs=0.02)
    assert better.values == pytest.approx((-1.0, 1.0, 1.0))
    assert training.foresight(study(*trials[:7])) is None


def test_the_value_is_named_after_the_metric_that_equals_the_reports() -> None:
    named = study(trial(0, 0.5, reports={1: 0.5}, metrics={"loss": {1: 0.7}, "accuracy": {1: 0.5}}))
    assert scores.value_axis(named) == "accuracy (higher is better)"
    assert scores.value_name(study(trial(0, 0.5))) == "objective value"
    spec = {"fixed": {"objective": ["accuracy", "flops"]}}
    two = study(trial(0, (0.5, 9.0)), directions=("maximize", "minimize"), spec=spec)
    assert [scores.value_name(two, place) for place in (0, 1)] == ["accuracy", "flops"]


def test_the_axis_shows_the_good_half_and_says_how_many_lie_beyond() -> None:
    losses = [0.1 + n / 100 for n in range(100)] + [1e9, 5e9]
    low, high = landscape.window(losses, "minimize")
    assert low == 0.1
    assert high == pytest.approx(0.1 + 3 * 0.5)
    history = study(*(trial(n, loss) for n, loss in enumerate(losses)), directions=("minimize",))
    figure = history_figure(progress.optimization_history(history), "History")
    assert [note.text for note in figure.layout.annotations] == ["2 above ↑"]
    assert landscape.window([0.5] * 9 + [0.4, 90.0], "minimize") == (0.4, pytest.approx(0.7))
    assert landscape.window([0.1, 0.5, 0.9], "maximize") == (0.1, 0.9)


def test_a_diverged_trial_is_drawn_apart_from_a_failed_one() -> None:
    history = study(trial(0, 0.5), trial(1, None, "failed"), trial(2, None, "diverged", reports={1: 0.2}))
    points = progress.optimization_history(history).points
    assert [(point.value, point.state) for point in points] == [
        (0.5, "complete"),
        (None, "failed"),
        (None, "diverged"),
    ]
    names = [trace.name for trace in history_figure(progress.optimization_history(history), "").data]
    assert {"failed (no value)", "diverged (no value)"} <= set(names)


def test_what_comes_every_tenth_time_is_not_hidden_and_the_best_are_kept() -> None:
    """A sample is random, yet the same each time, and nearly the same when a trial is added."""
    values = [1.0 if n % 10 == 3 else n / 1e5 for n in range(10_000)]
    points = progress.optimization_history(study(*(trial(n, v) for n, v in enumerate(values)))).points
    tenth = sum(point.number % 10 == 3 for point in points)
    assert 0.075 < tenth / len(points) < 0.175
    some = scores.sample(range(5000), 500)
    assert scores.sample(range(5000), 500) == some
    assert len(set(scores.sample(range(5001), 500)) ^ set(some)) <= 3
    history = study(*(trial(n, v) for n, v in enumerate(values)), directions=("minimize",))
    shown = {point.number for point in progress.optimization_history(history).points}
    assert scores.best_numbers(history) == {n for n in range(56) if n % 10 != 3 and n < 56} & shown


def test_the_hypervolume_grows_with_the_front() -> None:
    """By hand: up to the worst of each direction, which is (0, 5) here."""
    values = [(0.0, 5.0), (1.0, 4.0), (2.0, 4.5), (0.5, 4.5), (2.0, 3.0)]
    trials = [trial(n, point) for n, point in enumerate(values)]
    found = progress.hypervolume(study(*trials, directions=("maximize", "minimize")))
    assert found is not None
    assert (found.x, found.value) == ((0.0, 1.0, 2.0, 4.0), (0.0, 1.0, 1.5, 4.0))
    assert progress.hypervolume(study(*trials)) is None


def test_ten_lines_have_ten_looks() -> None:
    looks = [theme.look(index) for index in range(36)]
    assert len({look[:2] for look in looks}) == 36
