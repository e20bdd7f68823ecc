"""Which charts a report shows, in which order, and the sentence under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from hpo.report import data, figures, text
from hpo.search.history import Direction, StudyHistory

Size = Literal["full", "half", "third"]
_KINDS = ("confusion", "roc", "pr-", "residuals")  # each of both splits side by side


@dataclass(frozen=True)
class Chart:
    """A figure with its caption. On a screen below ``min_width`` pixels it scrolls sideways, not shrinks."""

    id: str  # unique in the report; also the picture's file name
    figure: go.Figure
    caption: str = ""
    size: Size = "full"
    min_width: int = 0


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    charts: tuple[Chart, ...]
    intro: str = ""


def study_sections(history: StudyHistory) -> tuple[Section, ...]:
    """Every section that has something to show for one study."""
    sections = (
        Section("progress", "Progress", tuple(_progress(history))),
        Section("learning", "Learning curves", tuple(_learning(history))),
        Section("parameters", "Parameters", tuple(_parameters(history))),
        Section(
            "slices",
            "Slices",
            tuple(_slices(history)),
            "One point per trial: a circle is complete, an open triangle was pruned (its last report), "
            "the star is the best.",
        ),
        _winner(history),
        Section("time", "Time", tuple(_time(history))),
    )
    return tuple(section for section in sections if section.charts)


def short_sections(history: StudyHistory, prefix: str) -> tuple[Section, ...]:
    """A study in short, for the comparison of several."""
    charts = [*_progress(history)[:1], *_importances(history)]
    renamed = tuple(Chart(prefix + c.id, c.figure, c.caption, "half", c.min_width) for c in charts)
    return (Section(prefix + "short", "", renamed),) if renamed else ()


def comparison_sections(histories: Sequence[StudyHistory]) -> tuple[Section, ...]:
    """Several studies in one picture each; nothing where their directions differ."""
    if len({history.directions for history in histories}) != 1 or len(histories[0].directions) > 1:
        return ()
    charts = []
    captions: dict[data.Over, str] = {
        "trials": "Each line is a study; a marker is an improvement. Pruned trials count on the axis.",
        "seconds": "Wall time, pauses included, so it depends on how many runners each study had.",
        "epochs": "Training spent by all trials together: what a search costs, whatever ran at once.",
    }
    for over, caption in captions.items():
        lines = [line for history in histories if (line := data.best_so_far(history, over))]
        if lines:
            step = data.step_name(histories[0])
            charts.append(Chart(f"compare-{over}", figures.best_figure(lines, over, None, step), caption))
    spread = [record for history in histories if (record := data.edf(history))]
    if spread:
        charts.append(Chart("compare-edf", figures.edf_figure(spread), _edf_caption(histories[0])))
    return (Section("comparison", "Comparison", tuple(charts)),) if charts else ()


def _progress(history: StudyHistory) -> list[Chart]:
    charts = []
    many = len(history.directions) > 1
    front = data.pareto(history)
    if front:
        width = 900 if len(front.names) > 2 else 0
        caption = "No trial on the front can be improved in one direction without losing in another."
        charts.append(
            Chart("pareto", figures.pareto_figure(front), _join(caption, front.note), "full", width)
        )
    for index in range(len(history.directions)):
        record = data.optimization_history(history, index)
        if record.points:
            title = f"Optimisation history, objective {index + 1}" if many else "Optimisation history"
            chart_id = f"history-{index + 1}" if many else "history"
            caption = "Every trial in the order it was started; the line is the best complete trial so far."
            values = [point.value for point in record.points if point.value is not None]
            caption = _join(caption, _cut(values, history.directions[index]), record.note)
            charts.append(Chart(chart_id, figures.history_figure(record, title), caption))
    spread = None if many else data.edf(history)
    if spread:
        charts.append(Chart("edf", figures.edf_figure([spread]), _edf_caption(history), "half"))
        spent = data.best_so_far(history, "epochs")
        if spent:
            figure = figures.best_figure([spent], "epochs", None, data.step_name(history))
            charts.append(
                Chart("best-epochs", figure, "What the search had cost when it got better.", "half")
            )
    return charts


def _learning(history: StudyHistory) -> list[Chart]:
    record = data.learning_curves(history)
    if record is None:
        return []
    caption = "One line per trial; a triangle is where it was pruned. Click a name to hide or show it."
    broken = sum(curve.broken for curve in record.curves)
    if broken:
        caption = _join(caption, f"{text.count(broken, 'trial')} reported NaN or infinity, left out here.")
    values = [value for curve in record.curves for value in curve.values]
    caption = _join(caption, _cut(values, record.direction), record.note)
    return [Chart("learning-curves", figures.learning_figure(record), caption)]


def _parameters(history: StudyHistory) -> list[Chart]:
    charts = []
    many = len(history.directions) > 1
    for index in range(len(history.directions)):
        suffix = f"-{index + 1}" if many else ""
        ending = f", objective {index + 1}" if many else ""
        charts += _importances(history, index)
        surface = data.contour(history, index)
        if surface:
            caption = "Smoothed over the trials (points); empty where no trial is near."
            figure = figures.contour_figure(surface)
            charts.append(Chart(f"contour{suffix}", figure, _join(caption, surface.note), "half"))
        lines = data.parallel(history, index)
        if lines:
            width = 92 * (len(lines.parameters) + 1)  # so that names stand side by side
            caption = "One line per trial, most important parameter first. Click a name to hide or show it."
            figure = figures.parallel_figure(lines, f"Parallel coordinates{ending}")
            charts.append(Chart(f"parallel{suffix}", figure, _join(caption, lines.note), "full", width))
    return charts


def _slices(history: StudyHistory) -> list[Chart]:
    charts = []
    many = len(history.directions) > 1
    for index in range(len(history.directions)):
        suffix, ending = (f"-{index + 1}", f", objective {index + 1}") if many else ("", "")
        for place, record in enumerate(data.slices(history, index), start=1):
            figure = figures.slice_figure(record, f"{record.parameter.name}{ending}", legend=False)
            charts.append(Chart(f"slice{suffix}-{place}", figure, record.note, "third"))
    return charts


def _importances(history: StudyHistory, index: int = 0) -> list[Chart]:
    record = data.importances(history, index)
    if not record.entries and (not record.trials or all(axis.single for axis in data.axes(history))):
        return []
    many = len(history.directions) > 1
    title = f"Parameter importances, objective {index + 1}" if many else "Parameter importances"
    caption = record.note if record.entries else ""
    if record.entries:
        caption = _join(
            "How much a parameter decides whether a trial is among the best (PED-ANOVA).", caption
        )
    figure = figures.importance_figure(record, title)
    return [Chart(f"importances-{index + 1}" if many else "importances", figure, caption, "half")]


def _winner(history: StudyHistory) -> Section:
    charts = []
    best = data.best_trial(history) if len(history.directions) == 1 else None
    if best:
        for place, curve in enumerate(data.metric_curves(best), start=1):
            figure = figures.metric_figure(curve, data.step_name(history))
            charts.append(Chart(f"metric-{place}", figure, "", "third"))
    validation = data.read_evaluation(history.winner_evaluation)
    test = data.read_evaluation(history.test_evaluation, "test")
    drawn = [_evaluation(evaluation) for evaluation in (validation, test) if evaluation]
    charts += [chart for kind in _KINDS for group in drawn for chart in group if chart.id.startswith(kind)]
    title = f"The best trial ({best.number})" if best else "The best trial"
    return Section("winner", title, tuple(charts))


def _evaluation(evaluation: data.Evaluation) -> list[Chart]:
    charts = []
    split = evaluation.split
    if evaluation.confusion:
        caption = _join("Rows are the true classes, numbers are samples.", evaluation.confusion.note)
        figure = figures.confusion_figure(evaluation.confusion, split)
        size: Size = "half" if len(evaluation.confusion.classes) <= 12 else "full"
        charts.append(Chart(f"confusion-{split}", figure, caption, size))
    if evaluation.roc:
        caption = "Each class against all others; AUC is the area under the curve."
        charts.append(Chart(f"roc-{split}", figures.roc_figure(evaluation.roc, split), caption, "half"))
    if evaluation.pr:
        caption = "Each class against all others; AP is the average precision."
        charts.append(Chart(f"pr-{split}", figures.pr_figure(evaluation.pr, split), caption, "half"))
    if evaluation.residuals:
        std = evaluation.residuals.std
        caption = f"Standard deviation of the residuals: {text.number(std)}." if std is not None else ""
        figure = figures.residual_figure(evaluation.residuals, split)
        charts.append(Chart(f"residuals-{split}", figure, caption, "half"))
    return charts


def _time(history: StudyHistory) -> list[Chart]:
    charts = []
    over_seconds = data.best_so_far(history, "seconds") if len(history.directions) == 1 else None
    if over_seconds:
        figure = figures.best_figure([over_seconds], "seconds")
        charts.append(
            Chart("best-seconds", figure, "Wall time since the first trial started, pauses included.")
        )
    record = data.timeline(history)
    if record and record.bars:
        caption = "One bar per attempt, on the runner that worked at it."
        charts.append(
            Chart("timeline", figures.timeline_figure(record), _join(caption, record.note), "full", 560)
        )
    return charts


def _cut(values: list[float], direction: Direction) -> str:
    """What to say where the value axis leaves out diverged trials."""
    low, high = data.window(values, direction) if values else (0.0, 0.0)
    out = sum(not low <= value <= high for value in values)
    return f"{text.count(out, 'value')} too far off for the axis." if out else ""


def _edf_caption(history: StudyHistory) -> str:
    better = "right" if history.directions[0] == "maximize" else "left"
    return f"The further {better} a curve lies, the better; pruned trials count with their last report."


def _join(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
