"""Every chart there is, each described once; the report and the dashboard read it alike.

To add one, write its record (`hpo.report.records`) and its drawing (`hpo.report.drawing`), and make an entry
of them here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from hpo import text
from hpo.errors import NotFoundError
from hpo.report.chart import Chart, Size
from hpo.report.drawing import landscape, progress, training
from hpo.report.drawing.theme import themed
from hpo.report.records.landscape import MAX_SLICES, Slice, contour, parallel, path, slices, window
from hpo.report.records.parameters import Importances, importances
from hpo.report.records.progress import (
    BestSoFar,
    Edf,
    History,
    Machines,
    best_so_far,
    edf,
    hypervolume,
    machines,
    optimization_history,
    pareto,
    timeline,
)
from hpo.report.records.scores import Over
from hpo.report.records.training import (
    Confusion,
    LearningCurves,
    Residuals,
    best_metrics,
    evaluations,
    foresight,
    learning_curves,
)
from storage.history.records import Direction, StudyHistory


def find(address: str) -> tuple[Chart, int, str]:
    """A study's chart by its name, the objective (from 0) and the part: "history-2", "slice-7", "slice-2-7".

    Raises:
        NotFoundError: there is no such chart.
    """
    match = re.fullmatch(r"([a-z-]*[a-z])((?:-[1-9][0-9]{0,3})*)", address)
    for chart in STUDY:
        if match and match[1] in (chart.name, chart.address):
            numbers = match[2].split("-")[1:]
            part = (numbers or ["1"]).pop() if chart.parts else ""
            objective = int(numbers.pop()) - 1 if numbers and chart.objectives == "each" else 0
            if not numbers:
                return chart, objective, part
    raise NotFoundError(f"there is no chart named {address[:40]!r}")


def draw(history: StudyHistory, address: str) -> go.Figure:
    """The figure of a study's chart.

    Raises:
        NotFoundError: there is no such chart, or there is nothing to see in it yet.
    """
    try:
        chart, objective, part = find(address)
    except NotFoundError as error:
        names = ", ".join(chart.name for chart in STUDY if chart.parts is not _elsewhere)
        raise NotFoundError(f"{error}; there are {names}") from None
    directions = len(history.directions)
    if objective in chart.indices(directions):
        record = chart.record(history, objective)
        record = record.get(part) if record and chart.parts else record
        picture = chart.picture(chart.name, record, chart.ending(objective, directions, ", objective {}"))
        if picture is not None:
            return themed(picture.figure, "light")
    raise NotFoundError(f"{history.name} has nothing to show in {address}")


def _noted(sentence: str) -> Callable[[Any], str]:
    """A caption: the sentence and the record's own note."""
    return lambda record: text.joined(sentence, record.note)


def _beside(room: int, limit: int, names: Iterable[str]) -> int:
    """Pixels of a chart that has so much room beside the names of its rows, which are cut at a limit."""
    return room + 13 * min(limit, max(map(len, names))) // 2


def _cut(values: list[float], direction: Direction) -> str:
    """What to say where the value axis leaves out diverged trials."""
    low, high = window(values, direction) if values else (0.0, 0.0)
    out = sum(not low <= value <= high for value in values)
    return f"{text.counted(out, 'value')} too far off for the axis." if out else ""


def _history_caption(record: History) -> str:
    values = [point.value for point in record.points if point.value is not None]
    caption = "Every trial in the order it was started; the line is the best complete trial so far."
    return text.joined(caption, _cut(values, record.direction), record.note)


def _edf_caption(records: Sequence[Edf]) -> str:
    better = "right" if records[0].direction == "maximize" else "left"
    return f"The further {better} a curve lies, the better; pruned trials count with their last report."


def _learning_caption(record: LearningCurves) -> str:
    broken = sum(curve.broken for curve in record.curves)
    return text.joined(
        "One line per trial. Click a name to hide or show it."
        if record.few
        else "One line per trial; a triangle is where it was pruned. Click a name to hide or show it.",
        f"{text.counted(broken, 'trial')} reported NaN or infinity, left out here." if broken else "",
        "" if record.few else _cut([v for curve in record.curves for v in curve.values], record.direction),
        record.note,
    )


def _importance_caption(record: Importances) -> str:
    sentence = (
        "How much worse the ranks of left-out trials are predicted without a parameter, "
        "and the 90 % interval over the trials."
    )
    return text.joined(sentence, record.note) if record.entries else ""  # else the picture says why


def _slice_caption(record: Slice) -> str:
    told = "Boxes: the middle half of the complete trials, their median; lines from 5 to 95 %."
    return text.joined(told if record.boxes else "", record.note)


def _machines_caption(record: Machines) -> str:
    idle = (
        ""
        if record.idle is None
        else (
            f"Runners had nothing to do for {text.duration(record.idle)} in all, "
            f"{100 * record.idle_share:.0f} % of their time."
        )
    )
    return text.joined(
        "Each point is the mean of the time up to it; of the whole machine.", idle, record.note
    )


def _residual_caption(record: Residuals) -> str:
    return "" if record.std is None else f"Standard deviation of the residuals: {text.number(record.std)}."


def _lines(histories: Sequence[StudyHistory], over: Over) -> list[BestSoFar]:
    return [line for history in histories if (line := best_so_far(history, over))]


def _spread(histories: Sequence[StudyHistory]) -> list[Edf]:
    return [record for history in histories if (record := edf(history))]


def _epochs_figure(lines: Sequence[BestSoFar], title: str) -> go.Figure:
    return progress.best_figure(lines, title.replace("epoch", lines[0].step_name))


def _numbered(records: Sequence[Any]) -> dict[str, Any]:
    return {str(place): record for place, record in enumerate(records, start=1)}


def _elsewhere(_parameters: int) -> int:
    """No part on a study's page, because a trial has a page of its own."""
    return 0


def _evaluation(
    name: str,
    title: str,
    draw: Callable[[Any, str], go.Figure],
    caption: Callable[[Any], str],
    height: int,
    size: Callable[[Confusion], Size] | None = None,
) -> Chart:
    """A chart of the part of an evaluation that has its name; on the report one of each split."""
    return Chart(
        name=name,
        title=title,
        section="winner",
        record=lambda history, _: {found.split: found for found in evaluations(history) if found},
        applies=lambda record: bool(getattr(record, name)),
        draw=lambda record, title: draw(getattr(record, name), f"{title}, {record.split} set"),
        caption=lambda record: caption(getattr(record, name)),
        size=lambda record: size(getattr(record, name)) if size else "half",
        height=height,
        objectives="any",
        parts=_elsewhere,
    )


METRICS = Chart(
    name="metric",
    section="winner",
    record=lambda history, _: _numbered(best_metrics(history)),
    draw=lambda record, _: training.metrics_figure(record, record.title),
    size="third",
    height=280,
    objectives="one",
    parts=_elsewhere,
)

EVALUATION = (
    _evaluation(
        "confusion",
        "Confusion matrix",
        training.confusion_figure,
        _noted("Rows are the true classes, numbers are samples."),
        380,
        lambda record: "half" if len(record.classes) <= 12 else "full",
    ),
    _evaluation(
        "roc",
        "ROC",
        training.roc_figure,
        lambda _: "Each class against all others; AUC is the area under the curve.",
        480,
    ),
    _evaluation(
        "pr",
        "Precision and recall",
        training.pr_figure,
        lambda _: "Each class against all others; AP is the average precision.",
        480,
    ),
    _evaluation("residuals", "Predicted against actual", training.residual_figure, _residual_caption, 420),
)

STUDY: tuple[Chart, ...] = (
    Chart(
        name="pareto",
        title="Pareto front",
        section="progress",
        record=lambda history, _: pareto(history),
        draw=progress.pareto_figure,
        caption=_noted("No trial on the front can be improved in one direction without losing in another."),
        height=420,
        min_width=lambda record: 900 if len(record.names) > 2 else 0,
        objectives="several",
        log=True,
    ),
    Chart(
        name="hypervolume",
        title="Hypervolume over trials",
        section="progress",
        record=lambda history, _: [found] if (found := hypervolume(history)) else None,
        draw=progress.best_figure,
        caption=lambda _: "The area that the front so far dominates, up to each direction's worst value.",
        size="half",
        objectives="several",
    ),
    Chart(
        name="history",
        address="history-1",
        title="Optimisation history",
        section="progress",
        record=optimization_history,
        applies=lambda record: bool(record.points),
        draw=progress.history_figure,
        caption=_history_caption,
        log=True,
        outline=True,
    ),
    Chart(
        name="edf",
        title="Distribution of values",
        section="progress",
        record=lambda history, _: _spread([history]),
        draw=progress.edf_figure,
        caption=_edf_caption,
        size="half",
        objectives="one",
    ),
    Chart(
        name="best-epochs",
        title="Best so far over epochs trained",
        section="progress",
        record=lambda history, _: _lines([history], "epochs"),
        draw=_epochs_figure,
        caption=lambda _: "What the search had cost when it got better.",
        size="half",
        objectives="one",
    ),
    Chart(
        name="learning-curves",
        address="learning",
        title="Learning curves",
        section="learning",
        record=lambda history, _: learning_curves(history),
        draw=training.learning_figure,
        caption=_learning_caption,
        height=420,
        objectives="one",
        log=True,
        metric="curves",
    ),
    Chart(
        name="foresight",
        title="Rank correlation with the result",
        section="learning",
        record=lambda history, _: foresight(history),
        draw=training.foresight_figure,
        caption=lambda _: (
            "How well the order at a step foretells the order in the end: 1 is wholly, 0 not at all. With "
            "the pruned trials it would mostly be higher. hpo regret says what pruning cost."
        ),
        size="half",
        objectives="one",
    ),
    Chart(
        name="importances",
        title="Parameter importances",
        section="parameters",
        record=importances,
        applies=lambda record: record.trials > 0,
        draw=landscape.importance_figure,
        caption=_importance_caption,
        size="half",
        min_width=lambda record: (
            _beside(320, 24, (entry.name for entry in record.entries)) if record.entries else 0
        ),
        metric="last",
    ),
    Chart(
        name="path",
        title="From the first setting to the best",
        section="parameters",
        record=path,
        draw=landscape.path_figure,
        caption=_noted(
            "One parameter at a time, the most promising first; lines are 90 % intervals of each gain."
        ),
        size="half",
        min_width=lambda record: _beside(250, 34, (step.change for step in record.steps)),
    ),
    Chart(
        name="contour",
        title="The two most important parameters",
        section="parameters",
        record=contour,
        draw=lambda record, _: landscape.contour_figure(
            record, f"{record.axis.split(' (')[0]} over {record.x.name} and {record.y.name}"
        ),
        caption=_noted("Smoothed over the trials (points); empty where no trial is near."),
        size="half",
        height=440,
        picks=2,
    ),
    Chart(
        name="parallel",
        title="Parallel coordinates",
        section="parameters",
        record=parallel,
        draw=landscape.parallel_figure,
        caption=_noted(
            "One line per trial, most important parameter first. Click a name to hide or show it."
        ),
        height=460,
        # So that names stand side by side; of many, as far as a wide screen has room.
        min_width=lambda record: (92 if len(record.parameters) > 9 else 110) * (len(record.parameters) + 1),
    ),
    Chart(
        name="slice",
        section="slices",
        record=lambda history, objective, picked=(): _numbered(slices(history, objective, *picked)),
        draw=lambda record, ending: landscape.slice_figure(record, record.parameter.name + ending),
        caption=_slice_caption,
        size="third",
        height=290,
        picks=1,
        parts=lambda parameters: min(parameters, MAX_SLICES),
    ),
    METRICS,
    *EVALUATION,
    Chart(
        name="best-seconds",
        title="Best so far over time",
        section="time",
        record=lambda history, _: _lines([history], "seconds"),
        draw=progress.best_figure,
        caption=lambda _: "Wall time since the first trial started, pauses included.",
        objectives="one",
    ),
    Chart(
        name="timeline",
        title="Timeline by runner",
        section="time",
        record=lambda history, _: timeline(history),
        applies=lambda record: bool(record.bars),
        draw=progress.timeline_figure,
        caption=_noted("One bar per attempt, on the runner that worked at it."),
        height=320,
        min_width=lambda _: 560,
        objectives="any",
    ),
    Chart(
        name="machines",
        title="Machines",
        section="time",
        record=lambda history, _: machines(history),
        draw=progress.machines_figure,
        caption=_machines_caption,
        height=380,
        objectives="any",
    ),
)

COMPARISON = (
    Chart(
        name="compare-trials",
        title="Best so far over trials",
        record=lambda histories: _lines(histories, "trials"),
        draw=progress.best_figure,
        caption=lambda _: (
            "Each line is a study; a marker is an improvement. Pruned trials count on the axis."
        ),
    ),
    Chart(
        name="compare-seconds",
        title="Best so far over time",
        record=lambda histories: _lines(histories, "seconds"),
        draw=progress.best_figure,
        caption=lambda _: "Wall time, pauses included, so it depends on how many runners each study had.",
    ),
    Chart(
        name="compare-epochs",
        title="Best so far over epochs trained",
        record=lambda histories: _lines(histories, "epochs"),
        draw=_epochs_figure,
        caption=lambda _: "Training spent by all trials together: what a search costs, whatever ran at once.",
    ),
    Chart(
        name="compare-edf",
        address="compare-values",
        title="Distribution of values",
        record=_spread,
        draw=progress.edf_figure,
        caption=_edf_caption,
    ),
)
