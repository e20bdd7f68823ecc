"""Colours, marker shapes, templates and the small habits every figure shares.

Colours are those of Okabe and Ito (2008), which people with any of the common colour deficiencies can tell
apart; wherever colour carries meaning a marker shape or a dash pattern carries it too. All read on the
light and on the dark background; what must follow the background (text, grid) comes from the template alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from hpo.report import text
from hpo.report.records.axes import Axis

Theme = Literal["light", "dark"]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8A929C"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "cross")
STATE_COLOURS = {"complete": BLUE, "pruned": ORANGE, "failed": RED, "running": GREEN, "waiting": GREY}
STATE_MARKERS = {
    "complete": "circle",
    "pruned": "triangle-down-open",
    "failed": "x",
    "running": "diamond",
    "waiting": "circle-open",
}
BEST_COLOUR, BEST_MARKER = RED, "star"
SURFACE = "Cividis"  # made for colour deficiencies: rises evenly in lightness
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HEIGHT = 380

_INK = {
    "light": ("#1d2530", "#ffffff", "#e3e7ec", "#c3cad3"),
    "dark": ("#e4e8ee", "#171c23", "#2b333d", "#4a5461"),
}


def template(theme: Theme) -> go.layout.Template:
    """Text, grid and background of one theme; everything else is the figure's own."""
    ink, paper, grid, line = _INK[theme]
    axis = {
        "gridcolor": grid,
        "linecolor": line,
        "zerolinecolor": line,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": line,
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink},
            "title": {"font": {"size": 17}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 12}},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": paper, "bordercolor": line, "font": {"color": ink, "family": FONT}},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "coloraxis": {"colorbar": {"outlinewidth": 0}},
        }
    )


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """The same figure in the other theme; changes and returns it."""
    figure.layout.template = template(theme)
    return figure


def plain(item: object, limit: int = text.MAX_LABEL) -> str:
    """A user's text as plotly shows it literally: no tags, no entities, no hover placeholders."""
    return html.escape(text.label(item, limit), quote=False).replace("%{", "% {")


def short(values: Sequence[float], digits: int = 5) -> list[float]:
    """Rounded to significant digits, which is what keeps a report of 1,000 trials small."""
    return [float(f"{value:.{digits}g}") for value in values]


def finish(
    figure: go.Figure,
    title: str,
    x: str | None = None,
    y: str | None = None,
    height: int = HEIGHT,
    **layout: Any,
) -> go.Figure:
    """Titles, the legend above the plot on the left, the light template."""
    figure.update_layout(
        template=template("light"),
        title={
            "text": plain(title, 120),
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14, "l": 12},
        },
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "itemwidth": 30,
        },
        margin={"l": 64, "r": 20, "t": 92, "b": 56},
        height=height,
        hovermode="closest",
    )
    if x is not None:
        figure.update_xaxes(title_text=plain(x, 80))
    if y is not None:
        figure.update_yaxes(title_text=plain(y, 80))
    figure.update_layout(**layout)
    return figure


def parameter_axis(axis: Axis) -> dict[str, Any]:
    """Layout of an axis that shows a parameter: its scale, or its choices at positions 0, 1, ..."""
    title = {"text": plain(axis.name) + (" (log scale)" if axis.log else "")}
    if axis.kind == "categorical":
        labels = [plain(choice, 16) for choice in axis.choices]
        return {
            "type": "linear",
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "range": [-0.5, len(labels) - 0.5],
            "title": title,
        }
    if axis.log:
        return {"type": "log", "title": title, **log_ticks(axis.low, axis.high)}
    return {"type": "linear", "title": title, "nticks": 6}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis that never crowd: decades over a wide range, 1-2-5 over a narrow one."""
    if low <= 0 or high / low > 1000:
        return {"dtick": 1, "exponentformat": "power", "minor": {"ticks": ""}}
    return {"dtick": "D2", "exponentformat": "none", "minor": {"ticks": ""}}


def empty(title: str, reason: str) -> go.Figure:
    """A figure that says why there is nothing to see."""
    figure = go.Figure()
    figure.add_annotation(text=plain(reason, 200), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    finish(figure, title, height=180)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
