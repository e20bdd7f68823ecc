"""Plotly figures of the records in ``hpo.report.data``; the report and the dashboard show the same ones.

Every figure has a title, a unit or a meaning on every axis and the light template; ``themed(figure, "dark")``
changes that. Text from users (study names, choices, classes) is always shown literally.
"""

from hpo.report.drawing.curves import learning_figure, metric_figure, metrics_figure
from hpo.report.drawing.evaluation import confusion_figure, pr_figure, residual_figure, roc_figure
from hpo.report.drawing.landscape import contour_figure, importance_figure, parallel_figure, slice_figure
from hpo.report.drawing.progress import (
    best_figure,
    edf_figure,
    history_figure,
    pareto_figure,
    timeline_figure,
)
from hpo.report.drawing.theme import PALETTE, STATE_COLOURS, STATE_MARKERS, Theme, template, themed

__all__ = [
    "PALETTE",
    "STATE_COLOURS",
    "STATE_MARKERS",
    "Theme",
    "best_figure",
    "confusion_figure",
    "contour_figure",
    "edf_figure",
    "history_figure",
    "importance_figure",
    "learning_figure",
    "metric_figure",
    "metrics_figure",
    "parallel_figure",
    "pareto_figure",
    "pr_figure",
    "residual_figure",
    "roc_figure",
    "slice_figure",
    "template",
    "themed",
    "timeline_figure",
]
