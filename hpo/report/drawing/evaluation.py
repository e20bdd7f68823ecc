"""Figures of the winner's evaluation. The title says which part of the data they are of."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from hpo.report.drawing import theme
from hpo.report.drawing.theme import finish, plain, short
from hpo.report.records.evaluation import Confusion, RateCurve, Residuals

MAX_WRITTEN_CLASSES = 20  # counts are written into the cells up to this many


def confusion_figure(record: Confusion, split: str, title: str = "Confusion matrix") -> go.Figure:
    """Rows are true classes, columns predictions; colour: share of the row, root scale; number: count."""
    n = len(record.classes)
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in record.counts]
    labels = [plain(name, 14) for name in record.classes]
    figure = go.Figure()
    figure.add_heatmap(
        z=[short([math.sqrt(share) for share in row], 3) for row in shares],  # so that single errors show
        customdata=[list(row) for row in record.counts],
        text=[[f"{count:,}" if count else "" for count in row] for row in record.counts],
        texttemplate="%{text}" if n <= MAX_WRITTEN_CLASSES else "",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hovertemplate="true %{y}, predicted %{x}: %{customdata}<extra></extra>",
    )
    marks = (0, 1, 5, 20, 50, 100)
    bar = {
        "title": {"text": "Share of the true class (%)", "side": "right"},
        "thickness": 14,
        "tickmode": "array",
        "tickvals": [math.sqrt(mark) for mark in marks],
        "ticktext": [str(mark) for mark in marks],
    }
    finish(figure, f"{title}, {split} set", height=max(320, min(760, 190 + 30 * n)))
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 10, "colorbar": bar})
    ticks = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": labels, "showgrid": False}
    figure.update_xaxes(**ticks, title_text="Predicted class")
    figure.update_yaxes(**ticks, title_text="True class", autorange="reversed")
    return figure


def roc_figure(curves: tuple[RateCurve, ...], split: str, title: str = "ROC") -> go.Figure:
    """True against false positive rate of each class; the dotted diagonal is chance."""
    figure = _rates(curves, "AUC")
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="chance",
        line={"color": theme.GREY, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    return _square(figure, f"{title}, {split} set", "False positive rate", "True positive rate")


def pr_figure(curves: tuple[RateCurve, ...], split: str, title: str = "Precision and recall") -> go.Figure:
    """Precision against recall of each class."""
    return _square(_rates(curves, "AP"), f"{title}, {split} set", "Recall", "Precision")


def residual_figure(record: Residuals, split: str, title: str = "Predicted against actual") -> go.Figure:
    """Regression: every sample's prediction; on the diagonal it is exact."""
    ends = [min((*record.actual, *record.predicted)), max((*record.actual, *record.predicted))]
    figure = go.Figure()
    figure.add_scatter(
        x=short(record.actual),
        y=short(record.predicted),
        mode="markers",
        name="samples",
        marker={"color": theme.BLUE, "size": 6, "opacity": 0.6},
        hovertemplate="actual %{x}, predicted %{y}<extra></extra>",
    )
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="exact",
        line={"color": theme.GREY, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    return finish(figure, f"{title}, {split} set", "Actual value", "Predicted value", height=420)


def _rates(curves: tuple[RateCurve, ...], area: str) -> go.Figure:
    figure = go.Figure()
    for index, curve in enumerate(curves):
        colour = theme.PALETTE[index % len(theme.PALETTE)]
        shown = "" if curve.area is None else f" ({area} {curve.area:.3f})"
        figure.add_scatter(
            x=short(curve.x, 4),
            y=short(curve.y, 4),
            mode="lines+markers",
            name=plain(curve.name, 20) + shown,
            line={"color": colour, "width": 2, "dash": theme.DASHES[index // len(theme.PALETTE)]},
            marker={"symbol": theme.MARKERS[index % len(theme.MARKERS)], "size": 7, "maxdisplayed": 6},
            hovertemplate="%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    return figure


def _square(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    finish(figure, title, f"{x} (0 to 1)", f"{y} (0 to 1)", height=480)
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
        margin={"t": 56, "b": 130},
    )
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_yaxes(range=[-0.02, 1.03])
    return figure
