"""Figures of learning curves, and of one trial's metrics and evaluation."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from hpo.report.drawing import theme
from hpo.report.drawing.theme import finish, frame, plain, short
from hpo.report.records.training import Confusion, Curve, LearningCurves, Metrics, RateCurve, Residuals

FEW_STEPS = 6  # a tick for each
DOTTED_STEPS = 30  # markers at each step up to this many
MAX_WRITTEN_CLASSES = 20  # counts are written into the cells up to this many


def learning_figure(record: LearningCurves, title: str) -> go.Figure:
    """All trials' reports; pruned ones end in a triangle, the best trial lies on top."""
    figure = go.Figure()
    groups: dict[str, list[Curve]] = {s: [] for s in ("pruned", "failed", "diverged", "complete", "running")}
    others = [curve for curve in record.curves if not curve.best]
    if record.few:
        for place, curve in enumerate(others):
            _add_one(figure, curve, place)
        figure.update_layout(legend_groupclick="toggleitem")
    else:
        for curve in others:
            groups.setdefault(curve.state, []).append(curve)
    for state, curves in groups.items():
        if curves:
            _add_group(figure, state, curves, len(record.curves))
    for curve in record.curves:
        if curve.best:
            figure.add_scatter(
                x=list(curve.steps),
                y=short(curve.values),
                mode="lines+markers",
                name=f"best: trial {curve.number}",
                line={"color": theme.BEST_COLOUR, "width": 3},
                marker={"symbol": theme.BEST_MARKER, "size": 9, "maxdisplayed": 12},
                customdata=[curve.number] * len(curve.steps),
                hovertemplate=f"trial {curve.number}, %{{x}}: %{{y}}<extra>best</extra>",
            )
    theme.link(figure)
    finish(figure, title, record.step_name.capitalize(), record.axis)
    values = [value for curve in record.curves for value in curve.values]
    frame(figure, values, record.direction, whole=record.few)
    longest = max(curve.steps[-1] for curve in record.curves)
    if longest <= 12:
        figure.update_xaxes(dtick=1)
    return figure


def _add_one(figure: go.Figure, curve: Curve, place: int) -> None:
    """One of a few trials, with a look and a name of its own."""
    colour, dash, symbol = theme.look(place + (place >= theme.PALETTE.index(theme.BEST_COLOUR)))
    figure.add_scatter(
        x=list(curve.steps),
        y=short(curve.values),
        mode="lines+markers",
        name=f"trial {curve.number}" + ("" if curve.state == "complete" else f", {curve.state}"),
        legendgroup=curve.state,
        line={"color": colour, "width": 2, "dash": dash},
        marker={"symbol": symbol, "size": 7, "maxdisplayed": 12},
        customdata=[curve.number] * len(curve.steps),
        hovertemplate=f"trial {curve.number}, %{{x}}: %{{y}}<extra>{curve.state}</extra>",
    )


def _add_group(figure: go.Figure, state: str, curves: list[Curve], total: int) -> None:
    """All curves of one state as a single trace, separated by gaps, and a marker where each ends."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    numbers: list[int | None] = []
    for curve in curves:
        xs += [*curve.steps, None]
        ys += [*short(curve.values), None]
        numbers += [curve.number] * len(curve.steps) + [None]
    colour = theme.STATE_COLOURS[state]
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        name=state,
        legendgroup=state,
        showlegend=False,
        line={
            "color": colour,
            "width": 1.4 if total <= 60 else 1,
            "dash": "dot" if state == "running" else "solid",
        },
        opacity=0.85 if total <= 30 else 0.6 if total <= 120 else 0.35,
        customdata=numbers,
        hovertemplate=f"trial %{{customdata}}, %{{x}}: %{{y}}<extra>{state}</extra>",
    )
    figure.add_scatter(
        x=[curve.steps[-1] for curve in curves],
        y=short([curve.values[-1] for curve in curves]),
        mode="markers",
        name=f"{state} here" if state in ("pruned", "failed", "diverged") else state,
        legendgroup=state,
        marker={
            "color": colour,
            "symbol": theme.STATE_MARKERS.get(state, "circle").removesuffix("-open"),
            "size": 8 if total <= 60 else 6,
            "opacity": 0.9,
        },
        customdata=[curve.number for curve in curves],
        hovertemplate=f"trial %{{customdata}}, %{{x}}: %{{y}}<extra>{state}</extra>",
    )


def metrics_figure(record: Metrics, title: str) -> go.Figure:
    """Metrics of the same unit in one picture (a training and a validation loss, say)."""
    figure = go.Figure()
    curves = record.curves
    for index, curve in enumerate(curves):
        colour, dash, symbol = theme.look(index)
        figure.add_scatter(
            x=list(curve.steps),
            y=short(curve.values),
            mode="lines+markers" if len(curve.steps) <= DOTTED_STEPS else "lines",
            name=plain(curve.name),
            line={"color": colour, "width": 2, "dash": dash},
            marker={"symbol": symbol, "size": 6},
            showlegend=len(curves) > 1,
            hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>",
        )
    unit = curves[0].name if len(curves) == 1 else title
    finish(figure, title, record.step_name.capitalize(), unit)
    frame(figure, [value for curve in curves for value in curve.values], "maximize", whole=True)
    if max((step for curve in curves for step in curve.steps), default=0) <= FEW_STEPS:
        figure.update_xaxes(dtick=1)  # there is no epoch 1.5
    return figure


def foresight_figure(record: Metrics, title: str) -> go.Figure:
    """Rank correlations over steps; there is none above 1."""
    figure = metrics_figure(record, title)
    least = min(value for curve in record.curves for value in curve.values)
    figure.update_yaxes(title_text="rank correlation", range=[min(0.0, least) - 0.05, 1.05])
    return figure


def confusion_figure(record: Confusion, title: str) -> go.Figure:
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
    finish(figure, title, height=max(320, min(760, 190 + 30 * n)))
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 10, "colorbar": bar})
    ticks = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": labels, "showgrid": False}
    figure.update_xaxes(**ticks, title_text="Predicted class")
    figure.update_yaxes(**ticks, title_text="True class", autorange="reversed")
    return figure


def roc_figure(curves: tuple[RateCurve, ...], title: str) -> go.Figure:
    """True against false positive rate of each class; the dotted diagonal is chance."""
    figure = _rates(curves, "AUC")
    _diagonal(figure, [0, 1], "chance")
    return _square(figure, title, "False positive rate", "True positive rate")


def pr_figure(curves: tuple[RateCurve, ...], title: str) -> go.Figure:
    """Precision against recall of each class."""
    return _square(_rates(curves, "AP"), title, "Recall", "Precision")


def residual_figure(record: Residuals, title: str) -> go.Figure:
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
    _diagonal(figure, ends, "exact")
    return finish(figure, title, "Actual value", "Predicted value")


def _diagonal(figure: go.Figure, ends: list[float], name: str) -> None:
    line = {"color": theme.GREY, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=ends, y=ends, mode="lines", name=name, line=line, hoverinfo="skip")


def _rates(curves: tuple[RateCurve, ...], area: str) -> go.Figure:
    figure = go.Figure()
    for index, curve in enumerate(curves):
        colour, dash, symbol = theme.look(index)
        shown = "" if curve.area is None else f" ({area} {curve.area:.3f})"
        figure.add_scatter(
            x=short(curve.x, 4),
            y=short(curve.y, 4),
            mode="lines+markers",
            name=plain(curve.name, 20) + shown,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"symbol": symbol, "size": 7, "maxdisplayed": 6},
            hovertemplate="%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    return figure


def _square(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    finish(figure, title, f"{x} (0 to 1)", f"{y} (0 to 1)")
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
        margin={"t": 56, "b": 130},
    )
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_yaxes(range=[-0.02, 1.03])
    return figure
