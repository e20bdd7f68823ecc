"""A chart is described once, and then the report, its pictures and the dashboard have it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import plotly.graph_objects as go
import pytest
from starlette.testclient import TestClient

from hpo.dashboard.board import Board
from hpo.errors import NotFoundError
from hpo.report import catalogue
from hpo.report.chart import Chart
from hpo.report.drawing.theme import encode, finish
from hpo.report.page import render
from hpo.report.records.training import evaluations
from hpo.report.sections import SECTIONS, pictures, study_sections, trial_pictures
from storage.history.records import StudyHistory
from tests.report.histories import searched, study, trial, two_directions


@dataclass(frozen=True)
class States:
    """A record: how many trials are in which state."""

    counts: dict[str, int]


def states(history: StudyHistory, _objective: int) -> States | None:
    """What a new chart shows."""
    counts = Counter(str(trial.state) for trial in history.trials)
    return States(counts) if counts else None


def states_figure(record: States, title: str) -> go.Figure:
    """How a new chart looks."""
    figure = go.Figure()
    figure.add_bar(x=list(record.counts), y=list(record.counts.values()))
    return finish(figure, title, "State", "Trials")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Chart:
    """One entry more in the catalogue."""
    chart = Chart(
        name="states",
        title="Trials by state",
        section="time",
        record=states,
        draw=states_figure,
        caption=lambda record: f"Of {sum(record.counts.values())} trials.",
        size="half",
        height=210,
    )
    monkeypatch.setattr(catalogue, "STUDY", (*catalogue.STUDY, chart))
    return chart


@pytest.mark.usefixtures("added")
def test_a_record_a_drawing_and_an_entry_make_a_chart_of_the_report() -> None:
    page = render([searched(10)])
    assert '<div class="plot" id="states" data-height="210"' in page
    assert "Of 10 trials." in page
    assert "<h3>Trials by state</h3>" in page
    assert list(pictures(study(), "time")) == []


@pytest.mark.usefixtures("added")
def test_a_new_chart_is_drawn_for_each_objective() -> None:
    drawn = {picture.id: picture.title for picture in pictures(two_directions(), "time")}
    assert drawn["states-1"] == "Trials by state, objective 1"
    assert drawn["states-2"] == "Trials by state, objective 2"


@pytest.mark.usefixtures("added")
def test_the_same_entry_makes_a_chart_of_the_dashboard(viewer: TestClient) -> None:
    found = viewer.get("/api/v1/studies/digits/charts/states").json()
    assert (found["title"], found["caption"], found["size"]) == ("Trials by state", "Of 11 trials.", "half")
    assert found["figure"]["layout"]["height"] == 210
    page = viewer.get("/studies/digits").text
    assert 'id="states" data-chart="/api/v1/studies/digits/charts/states" data-height="210"' in page


def test_every_chart_of_a_report_is_the_dashboards_too(viewer: TestClient, board: Board) -> None:
    """The same picture with the same words; the best trial's have a page of their own."""
    history, _ = board.history("digits")
    for section in study_sections(history):
        for picture in section.pictures if section.id != "winner" else ():
            found = viewer.get(f"/api/v1/studies/digits/charts/{picture.id}").json()
            shown = (found["title"], found["caption"], found["size"], found["min_width"])
            assert shown == (picture.title, picture.caption, picture.size, picture.min_width), picture.id
            assert found["figure"] == json.loads(encode(picture.untitled())), picture.id


def test_a_trials_page_shows_its_evaluation_as_the_report_does() -> None:
    history = searched(20)
    validation, _ = evaluations(history)
    of_report = {picture.id: picture for picture in pictures(history, "winner")}
    drawn = {picture.id: picture for picture in trial_pictures(history, history.trials[0], validation)}
    for name in ("confusion", "roc", "pr"):
        twin = of_report[f"{name}-validation"]
        assert drawn[name].figure == twin.figure
        assert (drawn[name].caption, drawn[name].size) == (twin.caption, twin.size)


@pytest.mark.parametrize(
    ("address", "name", "objective", "part"),
    [
        ("history", "history", 0, ""),
        ("history-2", "history", 1, ""),
        ("learning", "learning-curves", 0, ""),
        ("learning-curves", "learning-curves", 0, ""),
        ("slice-7", "slice", 0, "7"),
        ("slice-2-7", "slice", 1, "7"),
        ("best-seconds", "best-seconds", 0, ""),
    ],
)
def test_a_chart_is_found_by_name_objective_and_part(
    address: str, name: str, objective: int, part: str
) -> None:
    chart, *rest = catalogue.find(address)
    assert (chart.name, *rest) == (name, objective, part)


@pytest.mark.parametrize("address", ["", "-1", "history-0", "history-1-2", "timeline-1", "slice-1-2-3"])
def test_an_address_of_no_chart_is_refused(address: str) -> None:
    with pytest.raises(NotFoundError, match="there is no chart named"):
        catalogue.find(address)


def test_names_are_unique_and_sections_exist() -> None:
    names = [chart.name for chart in (*catalogue.STUDY, *catalogue.COMPARISON)]
    assert len(set(names)) == len(names)
    assert {chart.section for chart in catalogue.STUDY} == {section.id for section in SECTIONS}


def test_metrics_of_one_unit_share_a_picture_on_a_trials_page() -> None:
    metrics = {"train_loss": {1: 1.0}, "val_loss": {1: 2.0}, "lr": {1: 0.1}}
    one = trial(0, 0.5, reports={1: 0.5}, metrics=metrics)
    drawn = {picture.id: len(picture.figure.data) for picture in trial_pictures(study(one), one, None)}
    assert drawn == {"metric-loss": 2, "metric-lr": 1, "metric-objective value": 1}
