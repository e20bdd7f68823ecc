"""Charts by name, as plotly JSON: drawn from the records the report uses, computed only when they changed."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# plotly looks for pandas in `sys.modules` whenever it draws, and fails on a half imported one: scikit-learn
# leaves that there for a moment when another thread first imports it. So pandas is imported before.
import pandas  # noqa: F401 -- see above
import plotly.graph_objects as go

from hpo import text
from hpo.dashboard.board import Board
from hpo.errors import NotFoundError
from hpo.report import catalogue
from hpo.report.chart import Chart, Picture
from hpo.report.drawing import theme
from hpo.report.records.landscape import MIN_CONTOUR_TRIALS
from hpo.report.records.scores import best_numbers, once, sample, shown_note
from hpo.report.records.training import parse_evaluation
from hpo.report.sections import SECTIONS, comparable, trial_pictures
from storage.database.records import StudyRow
from storage.history.attempts import machines_of
from storage.history.records import StudyHistory, TrialRecord
from storage.history.trials import metrics_of

KEPT = 200  # drawn charts in memory
SOON = 2.0  # seconds until what was drawn in outline is asked for again
REST = 4  # a chart that took one second to draw is not drawn again for this many
MAX_METRIC_CURVES = 300
_pen = threading.Lock()  # charts drawn beside each other would all be done when the last is
NO_CONTOUR = f"It needs {MIN_CONTOUR_TRIALS} complete trials that have both parameters."


@dataclass(frozen=True)
class Slot:
    """A chart's place on a page."""

    id: str
    chart: Chart
    title: str
    one: bool = True  # the study has one direction

    @property
    def size(self) -> str:
        """The width of its place, before anything is known of what it shows."""
        return "full" if callable(self.chart.size) else self.chart.size

    @property
    def field(self) -> str:
        """What a filter calls the values it shows."""
        return "score" if self.one else f"value:{catalogue.find(self.id)[1] + 1}"


@dataclass(frozen=True)
class Options:
    """What a person picked."""

    metric: str = ""  # "": what the objective reports
    log: str = ""  # "1": a logarithmic value axis; "distance": of the distance to the best
    where: str = ""  # only trials that meet these conditions
    x: str = ""  # the parameter of a slice, or the first of a contour; "": the most important
    y: str = ""
    over: str = ""  # "seconds": curves over the time worked at their trials, not over steps


def study_slots(row: StudyRow, parameters: int) -> list[tuple[str, list[Slot]]]:
    """Sections of the study page and their charts, with slices of so many parameters."""
    many = len(row.spec["directions"])
    found = [(section.title, list(_slots(section.id, many, parameters))) for section in SECTIONS]
    return [(title, slots) for title, slots in found if slots or title == "Slices"]


def _slots(section: str, many: int, parameters: int) -> Iterator[Slot]:
    for objective in range(many):
        for chart in catalogue.STUDY:
            if chart.section != section or objective not in chart.indices(many):
                continue
            name = (chart.address if many == 1 else "") or chart.name + chart.ending(objective, many, "-{}")
            title = chart.title and chart.title + chart.ending(objective, many, ", objective {}")
            parts = [""] if chart.parts is None else [f"-{n}" for n in range(1, chart.parts(parameters) + 1)]
            yield from (Slot(name + part, chart, title, many == 1) for part in parts)


def comparison_slots() -> list[Slot]:
    """The charts of the page that compares studies."""
    return [Slot(chart.address or chart.name, chart, chart.title) for chart in catalogue.COMPARISON]


def draw_study(board: Board, name: str, address: str, options: Options) -> dict[str, Any]:
    """One chart of a study: `figure` (None where there is nothing to see yet), `caption`, `version`;
    `again` says in how many seconds a newer one may be had.

    Raises:
        NotFoundError: no such study or chart. UserError: the conditions cannot be read. DatabaseError
    """
    chart, objective, part = catalogue.find(address)

    def draw(history: StudyHistory) -> dict[str, Any]:
        if chart.metric and options.metric:
            picture = _of_metric(board, row, chart, history, options.metric)
        else:
            picture = _drawn(chart, history, objective, part, (options.x, options.y)[: chart.picks])
        if picture and chart.metric == "curves" and options.over == "seconds":
            _show_seconds(picture.figure, history)
        if picture and chart.log and options.log == "distance" and chart.objectives != "several":
            _show_distance(picture.figure, history.directions[objective])
        elif picture and chart.log and options.log:
            _make_logarithmic(picture.figure, both=chart.objectives == "several")
        return _result(picture, NO_CONTOUR if chart.picks == 2 else "")

    if chart.outline and not options.where and (rough := board.outlined(name)) is not None:
        return {"version": 0, "again": SOON, **draw(rough)}
    live = board.live(name)
    known, version = live.numbered()
    history, row = live.chosen(options.where, history=known), live.row
    if chart.name == "machines":  # read when it is asked for: a beat is no change of the study
        history = dataclasses.replace(history, machines=board.database.read(machines_of, row))
    return _cache.get((row.uid, address, options), version, lambda: draw(history))


def _drawn(
    chart: Chart, history: StudyHistory, objective: int, part: str, picked: Sequence[str]
) -> Picture | None:
    directions = len(history.directions)
    if objective >= directions:
        raise NotFoundError(f"there is no objective {objective + 1}")
    if objective not in chart.indices(directions):
        return None
    if any(picked):
        record = chart.record(history, objective, picked)
        record = record.get("1") if chart.parts else record
    elif chart.parts:
        record = _parts_of(chart, history, objective).get(part)
    else:
        record = chart.record(history, objective)
    with _pen:
        return chart.picture(chart.name, record, chart.ending(objective, directions, ", objective {}"))


def draw_comparison(histories: Sequence[StudyHistory], over: str) -> dict[str, Any]:
    """Best so far of several studies over trials, epochs or seconds, or their distributions of values."""
    wanted = f"compare-{over}"
    for chart in catalogue.COMPARISON:
        if wanted in (chart.name, chart.address):
            if not comparable(histories):
                return _result(None, "Studies of different or of several directions cannot share a picture.")
            return _result(chart.picture(wanted, chart.record(histories)))
    raise NotFoundError(f"there is no comparison over {over[:40]!r}")


def draw_trial(history: StudyHistory, trial: TrialRecord, evaluation: Any) -> list[dict[str, Any]]:
    """Every chart of one trial: its reports, its metrics by unit, and what it was evaluated to."""
    drawn = trial_pictures(history, trial, parse_evaluation(evaluation))
    return [{"id": picture.id, **_result(picture)} for picture in drawn]


def metric_names(board: Board, row: StudyRow, history: StudyHistory) -> list[str]:
    """Names of the metrics that the newest trials with reports logged."""
    newest = [trial.number for trial in reversed(history.trials) if trial.reports][:3]
    found = board.database.read(metrics_of, row, newest)
    return sorted({name for metrics in found.values() for name in metrics})


def _of_metric(
    board: Board, row: StudyRow, chart: Chart, history: StudyHistory, metric: str
) -> Picture | None:
    """The chart of another metric; which way is better is not known, so none is the best."""
    last = chart.metric == "last"
    reported = [trial for trial in history.trials if trial.reports]
    if last:  # where pruned trials rank depends on which way is better
        reported = [trial for trial in reported if trial.state == "complete"]
    best = best_numbers(history)
    drawn = sample(reported, MAX_METRIC_CURVES, lambda t: t.state == "running" or t.number in best)
    shown = {trial.number for trial in drawn}
    found = board.database.read(metrics_of, row, shown)
    known = [(trial, series) for trial in reported if (series := found.get(trial.number, {}).get(metric))]
    trials = tuple(
        dataclasses.replace(trial, values=(series[max(series)],))
        if last
        else dataclasses.replace(trial, reports=series)
        for trial, series in known
    )
    record = chart.record(dataclasses.replace(history, trials=trials), 0)
    if record is not None:
        note = shown_note(len(drawn), len(reported), "trials" if last else "curves")
        more = (
            {"note": text.joined(f"Of the last {metric}.", record.note, note)}
            if last
            else {"axis": metric, "note": note}
        )
        record = dataclasses.replace(record, **more)
    return chart.picture(chart.name, record)


@once
def _parts_of(chart: Chart, history: StudyHistory, objective: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = chart.record(history, objective)
    return found


def _show_distance(figure: go.Figure, direction: str) -> None:
    """Show how far each value is from the best, on a logarithmic axis."""
    for trace in figure.data:  # rounded alike, or what equals the best would be as far from it as rounding is
        trace.y = [None if value is None else theme.short([value])[0] for value in trace.y]
    values = [value for trace in figure.data for value in trace.y if value is not None]
    best = max(values, default=0.0) if direction == "maximize" else min(values, default=0.0)
    least = 1e-4 * max((abs(value - best) for value in values), default=0.0)  # below it is rounding
    for trace in figure.data:
        far = [None if value is None else abs(value - best) for value in trace.y]
        trace.y = [value if value is not None and value > least else None for value in far]
    figure.layout.annotations = ()
    figure.update_yaxes(type="log", range=None, exponentformat="power")
    figure.update_yaxes(title_text="distance to the best (log)")


def _show_seconds(figure: go.Figure, history: StudyHistory) -> None:
    """Each curve over the seconds its trial had taken; when a report came is not kept, so at an even pace."""
    paces = {t.number: t.seconds / t.last_step for t in history.trials if t.seconds and t.last_step}
    for trace in figure.data:
        placed = zip(trace.x, trace.customdata, strict=True)
        trace.x = [None if x is None or n not in paces else x * paces[n] for x, n in placed]
    figure.update_xaxes(title_text="seconds worked, at an even pace", type="linear", range=None, dtick=None)


def _make_logarithmic(figure: go.Figure, *, both: bool = False) -> None:
    """Make the value axis logarithmic, or both axes; its range, if set, is expressed in decades."""
    if both:
        figure.update_xaxes(type="log", exponentformat="power")
    low_high = figure.layout.yaxis.range
    figure.update_yaxes(type="log", range=None, exponentformat="power")
    if low_high and low_high[0] > 0:
        figure.update_yaxes(range=[math.log10(end) for end in low_high])


def _result(picture: Picture | None, caption: str = "") -> dict[str, Any]:
    """What the API answers; `figure` is None where there is nothing to see."""
    if picture is None:
        return {"figure": None, "caption": caption, "title": "", "size": "full", "min_width": 0}
    return {
        "figure": picture.untitled(),
        "caption": picture.caption,
        "title": picture.title,
        "size": picture.size,
        "min_width": picture.min_width,
    }


class _Cache:
    """Drawn charts by what they show. An expensive one is allowed to be a little old."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[int, float, float, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, version: int, draw: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            found = self._kept.get(key)
        now = time.monotonic()
        if found is not None:
            known, drawn, took, chart = found
            if known == version:
                return chart
            if now - drawn < REST * took:
                return {**chart, "again": max(0.1, round(drawn + REST * took - now, 2))}  # 0 is never
        chart = {"version": version, **draw()}
        with self._lock:
            if key not in self._kept or self._kept[key][0] < version:  # else a newer one was drawn meanwhile
                self._kept[key] = (version, time.monotonic(), time.monotonic() - now, chart)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return chart


_cache = _Cache()
