"""Every figure has a title, a meaning on every axis, and stays drawable at the edges."""

from __future__ import annotations

from collections.abc import Iterator

import plotly.graph_objects as go
import pytest

from hpo.report.drawing import theme
from hpo.report.drawing.progress import best_figure
from hpo.report.records import progress
from hpo.report.records.parameters import Axis
from hpo.report.sections import comparison_sections, study_sections
from storage.history.records import StudyHistory
from tests.report.histories import searched, study, trial, two_directions

NAN, INF = float("nan"), float("inf")

EDGES = {
    "empty": study(),
    "all diverged": study(*(trial(n, None, "diverged", reports={1: 0.1}, error="nan") for n in range(5))),
    "all failed": study(*(trial(n, None, "failed", error="boom") for n in range(5))),
    "all waiting": study(trial(0, None, "waiting"), waiting=9),
    "one trial": study(trial(0, 0.5, params={"x": 1.0}, reports={1: 0.5})),
    "one running": study(trial(0, None, "running", params={"x": 1.0}, reports={1: 0.5})),
    "not finite": study(
        trial(0, INF, reports={1: INF}), trial(1, NAN, reports={1: NAN, 2: 1e300}), trial(2, 1e308)
    ),
    "tied": study(*(trial(n, 0.5, params={"x": n / 10, "k": "ab"[n % 2]}) for n in range(20))),
    "no times": StudyHistory("bare", "finished", ("maximize",), {}, (trial(0, 0.5),)),
    "three": searched(3, evaluated=False),
    "sixty": searched(60, unfinished=3),
    "minimise": searched(60, minimize=True),
    "two directions": two_directions(),
    "three directions": study(
        *(trial(n, (n % 7, -n % 5, n % 3), params={"x": n}) for n in range(30)),
        directions=("maximize", "minimize", "minimize"),
    ),
    "many choices": study(
        *(trial(n, n / 40, params={"name": f"a choice with a long name {n % 30}"}) for n in range(40))
    ),
}


def charts(history: StudyHistory) -> Iterator[tuple[str, go.Figure]]:
    for section in (*study_sections(history), *comparison_sections((history, history))):
        for picture in section.pictures:
            yield picture.id, picture.figure


@pytest.mark.parametrize("history", EDGES.values(), ids=EDGES.keys())
def test_every_figure_has_a_title_and_a_title_on_every_visible_axis(history: StudyHistory) -> None:
    for name, figure in charts(history):
        assert figure.layout.title.text, name
        if name.startswith("parallel"):
            continue  # its axes are labelled one by one
        for axis in figure.select_xaxes():
            assert axis.visible is False or axis.title.text, name
        for axis in figure.select_yaxes():
            assert axis.visible is False or axis.title.text, name


@pytest.mark.parametrize("history", EDGES.values(), ids=EDGES.keys())
def test_chart_names_are_unique(history: StudyHistory) -> None:
    names = [picture.id for section in study_sections(history) for picture in section.pictures]
    assert len(set(names)) == len(names)


def test_sections_of_a_full_study_hold_every_chart() -> None:
    names = {picture.id for section in study_sections(searched(60)) for picture in section.pictures}
    assert names >= {
        "history",
        "edf",
        "best-epochs",
        "best-seconds",
        "learning-curves",
        "importances",
        "contour",
        "parallel",
        "slice-1",
        "confusion-validation",
        "confusion-test",
        "roc-test",
        "pr-validation",
        "timeline",
    }


def test_titles_say_which_set_an_evaluation_is_of() -> None:
    found = dict(charts(searched(20)))
    assert found["confusion-validation"].layout.title.text == "Confusion matrix, validation set"
    assert found["confusion-test"].layout.title.text == "Confusion matrix, test set"


def test_states_differ_by_shape_as_well_as_by_colour() -> None:
    assert len(set(theme.STATE_COLOURS.values())) == len(theme.STATE_COLOURS)
    assert len(set(theme.STATE_MARKERS.values())) == len(theme.STATE_MARKERS)


def test_compared_studies_differ_by_dash_and_marker() -> None:
    lines = [progress.best_so_far(searched(10, name=name)) for name in "abc"]
    drawn = best_figure([line for line in lines if line], "Best so far")
    assert len({trace.line.dash for trace in drawn.data}) == 3
    assert len({trace.marker.symbol for trace in drawn.data}) == 3


def test_users_text_is_shown_literally() -> None:
    history = study(*(trial(n, n / 10, params={"<b>x</b>": f"<i>{n % 3}</i> %{{y}}"}) for n in range(10)))
    for name, figure in charts(history):
        raw = figure.to_json()
        assert "<b>x" not in raw, name
        assert "\\u003cb\\u003ex" not in raw, name
        assert "<i>" not in raw, name
        assert "\\u003ci\\u003e" not in raw, name


def test_both_themes_draw_every_figure() -> None:
    for _, figure in charts(searched(20)):
        dark = theme.themed(figure, "dark").layout.template.layout
        light = theme.themed(figure, "light").layout.template.layout
        assert dark.paper_bgcolor != light.paper_bgcolor
        assert dark.font.color != light.font.color


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-4, 0.3, [1e-4, 1e-3, 1e-2, 1e-1]),
        (16, 256, [20, 50, 100, 200]),
        (1e-12, 1.0, [1e-12, 1e-9, 1e-6, 1e-3, 1e0]),
    ],
)
def test_ticks_of_a_log_axis_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert theme.nice_ticks(Axis("x", "float", low, high, log=True)) == pytest.approx(expected)


def test_ticks_of_a_linear_axis_are_round_and_few() -> None:
    assert theme.nice_ticks(Axis("x", "float", 0.0, 0.99)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert theme.nice_ticks(Axis("x", "int", 1, 4)) == [1, 2, 3, 4]
