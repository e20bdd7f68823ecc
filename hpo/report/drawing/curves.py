"""Figures of learning curves and of one trial's metrics."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from hpo.report.drawing import theme
from hpo.report.drawing.theme import finish, plain, short
from hpo.report.records.curves import Curve, LearningCurves, MetricCurve
from hpo.report.records.landscape import window

FEW_STEPS = 6  # a tick for each
DOTTED_STEPS = 30  # markers at each step up to this many


def learning_figure(record: LearningCurves, title: str = "Learning curves") -> go.Figure:
    """All trials' reports; pruned ones end in a triangle, the best trial lies on top."""
    figure = go.Figure()
    groups: dict[str, list[Curve]] = {s: [] for s in ("pruned", "failed", "diverged", "complete", "running")}
    for curve in record.curves:
        if not curve.best:
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
                hovertemplate=f"trial {curve.number}, %{{x}}: %{{y}}<extra>best</extra>",
            )
    finish(figure, title, record.step_name.capitalize(), record.axis, height=420)
    values = [value for curve in record.curves for value in curve.values]
    low, high = window(values, record.direction)
    if (low, high) != (min(values), max(values)):
        pad = 0.05 * (high - low)
        figure.update_yaxes(range=[low - pad, high + pad])
    longest = max(curve.steps[-1] for curve in record.curves)
    if longest <= 12:
        figure.update_xaxes(dtick=1)
    return figure


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


def metric_figure(curve: MetricCurve, step_name: str = "epoch", title: str | None = None) -> go.Figure:
    """One metric of one trial over its steps."""
    return metrics_figure([curve], step_name, title or curve.name)


def metrics_figure(curves: Sequence[MetricCurve], step_name: str, title: str) -> go.Figure:
    """Metrics of the same unit in one picture (a training and a validation loss, say)."""
    figure = go.Figure()
    for index, curve in enumerate(curves):
        colour = theme.PALETTE[index % len(theme.PALETTE)]
        figure.add_scatter(
            x=list(curve.steps),
            y=short(curve.values),
            mode="lines+markers" if len(curve.steps) <= DOTTED_STEPS else "lines",
            name=plain(curve.name),
            line={"color": colour, "width": 2, "dash": theme.DASHES[index % len(theme.DASHES)]},
            marker={"symbol": theme.MARKERS[index % len(theme.MARKERS)], "size": 6},
            showlegend=len(curves) > 1,
            hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>",
        )
    unit = curves[0].name if len(curves) == 1 else title
    finish(figure, title, step_name.capitalize(), unit, height=280)
    if max((step for curve in curves for step in curve.steps), default=0) <= FEW_STEPS:
        figure.update_xaxes(dtick=1)  # there is no epoch 1.5
    return figure
