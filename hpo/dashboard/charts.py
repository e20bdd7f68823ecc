"""Charts by name, as plotly JSON: drawn from the records the report uses, computed only when they changed."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# plotly looks for pandas in `sys.modules` whenever it draws, and fails on a half imported one: scikit-learn
# leaves that there for a moment when another thread first asks for importances. So it is imported before.
import pandas  # noqa: F401 -- see above
import plotly.graph_objects as go
import plotly.utils

from hpo.dashboard.board import Board
from hpo.errors import NotFoundError
from hpo.report import data, figures, text
from hpo.search.history import StudyHistory
from hpo.studies.trials import metrics_of
from storage.records import StudyRow

KEPT = 200  # drawn charts in memory
SOON = 2.0  # seconds until what was drawn in outline is asked for again
REST = 4  # a chart that took one second to draw is not drawn again for this many
MAX_METRIC_CURVES = 300


@dataclass(frozen=True)
class Slot:
    """A chart's place on the study page."""

    id: str
    title: str
    size: str = "full"
    height: int = 380
    min_width: int = 0
    metric: bool = False  # another metric may be picked
    log: bool = False  # the value axis may be logarithmic


@dataclass(frozen=True)
class Options:
    """What a person picked."""

    metric: str = ""  # "": what the objective reports
    log: bool = False


def study_slots(row: StudyRow, parameters: int) -> list[tuple[str, list[Slot]]]:
    """Sections of the study page and their charts, with slices of so many parameters."""
    many = len(row.spec["directions"])
    progress = [Slot("pareto", "Pareto front", height=420)] if many > 1 else []
    progress += [
        Slot(
            f"history-{i + 1}",
            "Optimisation history" + (f", objective {i + 1}" if many > 1 else ""),
            log=True,
        )
        for i in range(many)
    ]
    learning = [Slot("learning", "Learning curves", height=420, metric=True, log=True)]
    influence = [
        Slot("importances", "Parameter importances", "half", 380),
        Slot("contour", "The two most important parameters", "half", 440),
        Slot("parallel", "Parallel coordinates", "full", 460, 92 * (min(parameters, 12) + 1)),
    ]
    slices = [Slot(f"slice-{i}", "", "third", 290) for i in range(1, min(parameters, 24) + 1)]
    timing = [
        Slot("best-seconds", "Best so far over time", "half"),
        Slot("best-epochs", "Best so far over epochs", "half"),
        Slot("timeline", "Timeline by runner", "full", 320, 560),
    ]
    sections = [("Progress", progress), ("Learning curves", learning if many == 1 else [])]
    sections += [
        ("Parameters", influence),
        ("Slices", slices),
        ("Time", timing[2 * (many > 1) :]),
    ]
    return [(title, slots) for title, slots in sections if slots or title == "Slices"]


def draw_study(board: Board, name: str, chart: str, options: Options) -> dict[str, Any]:
    """One chart of a study: `figure` (None where there is nothing to see yet), `caption`, `version`;
    `again` says in how many seconds a newer one may be had.

    Raises:
        NotFoundError: no such study or chart. DatabaseError
    """
    maker = _maker(chart)
    if chart.startswith("history-") and (rough := board.outlined(name)) is not None:
        figure, caption = maker(board, board.live(name).row, rough, options)
        return {"version": 0, "again": SOON, **_result(figure, caption)}
    history, version = board.history(name)
    row = board.live(name).row

    def make() -> tuple[go.Figure | None, str]:
        return maker(board, row, history, options)

    return _cache.get((row.uid, chart, options), version, make)


def _maker(chart: str) -> Callable[[Board, StudyRow, StudyHistory, Options], tuple[go.Figure | None, str]]:
    kind, _, number = chart.partition("-")
    index = int(number) - 1 if number.isdigit() else 0
    plain: dict[str, Callable[[StudyHistory], tuple[go.Figure | None, str]]] = {
        "pareto": _pareto,
        "importances": lambda history: _importances(history, index),
        "contour": lambda history: _contour(history, index),
        "parallel": lambda history: _parallel(history, index),
        "slice": lambda history: _slice(history, index),
        "timeline": _timeline,
        "best-seconds": lambda history: _best(history, "seconds"),
        "best-epochs": lambda history: _best(history, "epochs"),
    }
    if chart == "learning":
        return _learning
    if kind == "history":
        return lambda _board, _row, history, options: _history(history, index, options)
    found = plain.get(chart) or plain.get(kind)
    if found is None:
        raise NotFoundError(f"there is no chart named {chart[:40]!r}")
    return lambda _board, _row, history, _options: found(history)


def draw_comparison(histories: Sequence[StudyHistory], over: str) -> dict[str, Any]:
    """Best so far of several studies over trials, epochs or seconds, or their distributions of values."""
    if len({history.directions for history in histories}) > 1:
        return _result(None, "These studies have different directions: their values cannot share a picture.")
    if over == "values":
        spread = [record for history in histories if (record := data.edf(history))]
        return _result(figures.edf_figure(spread) if spread else None, "")
    if over not in ("trials", "epochs", "seconds"):
        raise NotFoundError(f"there is no comparison over {over[:40]!r}")
    lines = [line for history in histories if (line := data.best_so_far(history, over))]  # type: ignore[arg-type]
    figure = figures.best_figure(lines, over, None, data.step_name(histories[0])) if lines else None  # type: ignore[arg-type]
    return _result(figure, "A line is a study; a marker is where it got better.")


def draw_trial(history: StudyHistory, number: int, trial: Any, evaluation: Any) -> list[dict[str, Any]]:
    """Every chart of one trial: its reports, its metrics by unit, and what it was evaluated to."""
    step = data.step_name(history)
    charts: list[dict[str, Any]] = []
    shown = trial
    if trial.reports and dict(trial.reports) not in [dict(series) for series in trial.metrics.values()]:
        name = data.value_name(history)
        shown = dataclasses.replace(trial, metrics={**trial.metrics, name: trial.reports})
    curves = {curve.name: curve for curve in data.metric_curves(shown)}
    for title, names in _by_unit(curves):
        figure = figures.metrics_figure([curves[name] for name in names], step, title)
        charts.append({"id": f"metric-{title}", "size": "third", "title": title, **_result(figure, "")})
    found = data.read_evaluation(evaluation)
    if found is not None:
        if found.confusion:
            figure = figures.confusion_figure(found.confusion, found.split)
            caption = "Rows are the true classes, numbers are samples."
            charts.append(_chart("confusion", f"Confusion matrix, {found.split} set", figure, caption))
        if found.roc:
            figure = figures.roc_figure(found.roc, found.split)
            charts.append(_chart("roc", f"ROC, {found.split} set", figure, "Each class against all others."))
        if found.pr:
            figure = figures.pr_figure(found.pr, found.split)
            title = f"Precision and recall, {found.split} set"
            charts.append(_chart("pr", title, figure, "Each class against all others."))
        if found.residuals:
            figure = figures.residual_figure(found.residuals, found.split)
            charts.append(_chart("residuals", f"Residuals, {found.split} set", figure, ""))
    return charts


def templates() -> dict[str, Any]:
    """Plotly's template of each theme."""
    return {theme: figures.template(theme).to_plotly_json() for theme in ("light", "dark")}


def encode(value: Any) -> str:
    """JSON with NaN as null; understands figures."""
    return json.dumps(value, cls=plotly.utils.PlotlyJSONEncoder, separators=(",", ":"))


def _chart(chart_id: str, title: str, figure: go.Figure, caption: str) -> dict[str, Any]:
    return {"id": chart_id, "size": "half", "title": title, **_result(figure, caption)}


def _by_unit(curves: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Metrics that differ only by "train_" or "val_" share a picture."""
    groups: dict[str, list[str]] = {}
    for name in curves:
        for prefix in ("train_", "val_", "validation_"):
            if name.startswith(prefix):
                groups.setdefault(name.removeprefix(prefix), []).append(name)
                break
        else:
            groups.setdefault(name, []).append(name)
    return list(groups.items())


def _history(history: StudyHistory, index: int, options: Options) -> tuple[go.Figure | None, str]:
    if index >= len(history.directions):
        raise NotFoundError(f"there is no objective {index + 1}")
    record = data.optimization_history(history, index)
    if not record.points:
        return None, ""
    return _logarithmic(figures.history_figure(record), options.log), record.note


def _learning(
    board: Board, row: StudyRow, history: StudyHistory, options: Options
) -> tuple[go.Figure | None, str]:
    if options.metric:
        return _learning_of(board, row, history, options)
    record = data.learning_curves(history)
    if record is None:
        return None, ""
    return _logarithmic(figures.learning_figure(record), options.log), record.note


def _learning_of(
    board: Board, row: StudyRow, history: StudyHistory, options: Options
) -> tuple[go.Figure | None, str]:
    """Learning curves of another metric; which way is better is not known, so none is the best."""
    reported = [trial for trial in history.trials if trial.reports]
    stride = max(1, math.ceil(len(reported) / MAX_METRIC_CURVES))
    shown = {trial.number for trial in reported[::stride]}
    best = data.best_trial(history)
    shown |= {trial.number for trial in reported if trial.state == "running"} | (
        {best.number} if best else set()
    )
    found = metrics_of(board.database, row, shown)
    trials = tuple(
        dataclasses.replace(trial, reports=found[trial.number][options.metric])
        for trial in reported
        if options.metric in found.get(trial.number, {})
    )
    record = data.learning_curves(dataclasses.replace(history, trials=trials))
    if record is None:
        return None, ""
    record = dataclasses.replace(record, axis=options.metric)
    note = "" if stride == 1 else f"{len(trials):,} of {len(reported):,} curves shown, evenly spaced."
    return _logarithmic(figures.learning_figure(record), options.log), note


def metric_names(board: Board, row: StudyRow, history: StudyHistory) -> list[str]:
    """Names of the metrics that the newest trials with reports logged."""
    newest = [trial.number for trial in reversed(history.trials) if trial.reports][:3]
    found = metrics_of(board.database, row, newest)
    return sorted({name for metrics in found.values() for name in metrics})


def _pareto(history: StudyHistory) -> tuple[go.Figure | None, str]:
    record = data.pareto(history)
    return (None, "") if record is None else (figures.pareto_figure(record), record.note)


def _importances(history: StudyHistory, index: int) -> tuple[go.Figure | None, str]:
    record = data.importances(history, index)
    return (figures.importance_figure(record), record.note) if record.trials else (None, "")


def _contour(history: StudyHistory, index: int) -> tuple[go.Figure | None, str]:
    record = data.contour(history, index)
    return (None, "") if record is None else (figures.contour_figure(record), record.note)


def _parallel(history: StudyHistory, index: int) -> tuple[go.Figure | None, str]:
    record = data.parallel(history, index)
    caption = "One line per trial, most important parameter first. Click a name to hide or show it."
    if record is None:
        return None, ""
    return figures.parallel_figure(record), f"{caption} {record.note}".strip()


@lru_cache(maxsize=4)
def _slices_of(history: _SameHistory) -> tuple[data.Slice, ...]:
    return data.slices(history.it)


class _SameHistory:
    """A history that is equal to itself only: comparing 10,000 trials would cost more than drawing them."""

    def __init__(self, it: StudyHistory) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameHistory) and other.it is self.it

    def __hash__(self) -> int:
        return id(self.it)


def _slice(history: StudyHistory, index: int) -> tuple[go.Figure | None, str]:
    records = _slices_of(_SameHistory(history))
    if index >= len(records):
        return None, ""
    return figures.slice_figure(records[index], legend=False), records[index].note


def _timeline(history: StudyHistory) -> tuple[go.Figure | None, str]:
    record = data.timeline(history)
    if record is None or not record.bars:
        return None, ""
    return figures.timeline_figure(record), record.note


def _best(history: StudyHistory, over: Any) -> tuple[go.Figure | None, str]:
    line = data.best_so_far(history, over)
    return (
        (None, "") if line is None else (figures.best_figure([line], over, None, data.step_name(history)), "")
    )


def _logarithmic(figure: go.Figure, wanted: bool) -> go.Figure:
    """The same figure with a logarithmic value axis; its range, if set, is expressed in decades."""
    if wanted:
        low_high = figure.layout.yaxis.range
        figure.update_yaxes(type="log", range=None)
        if low_high and low_high[0] > 0:
            figure.update_yaxes(range=[math.log10(end) for end in low_high])
    return figure


def _result(figure: go.Figure | None, caption: str) -> dict[str, Any]:
    """The figure without its title and template: the page has headings, and its script sets the theme."""
    if figure is None:
        return {"figure": None, "caption": caption, "title": ""}
    raw = figure.to_plotly_json()
    title = str(figure.layout.title.text or "")
    layout = {key: value for key, value in raw["layout"].items() if key not in ("template", "title")}
    margin = dict(layout.get("margin", {}))
    margin["t"] = max(16, margin.get("t", 56) - 36)
    return {
        "figure": {"data": raw["data"], "layout": {**layout, "margin": margin}},
        "caption": caption,
        "title": title,
    }


class _Cache:
    """Drawn charts by what they show. An expensive one is allowed to be a little old."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[int, float, float, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, version: int, make: Callable[[], tuple[go.Figure | None, str]]) -> dict[str, Any]:
        with self._lock:
            found = self._kept.get(key)
        now = time.monotonic()
        if found is not None:
            known, drawn, took, chart = found
            if known == version:
                return chart
            if now - drawn < REST * took:
                return {**chart, "again": round(drawn + REST * took - now, 2)}
        figure, caption = make()
        chart = {"version": version, **_result(figure, caption)}
        with self._lock:
            self._kept[key] = (version, time.monotonic(), time.monotonic() - now, chart)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return chart


_cache = _Cache()


def shown_params(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters as text."""
    return [(name, text.value(value)) for name, value in params.items()]
