"""Colours, marker shapes, templates and the small habits every figure shares.

Colours are those of Okabe and Ito (2008), which people with any of the common colour deficiencies can
tell apart; the blue is a little lighter, to read on a dark page too. Wherever colour carries meaning a marker
shape or a dash pattern carries it as well. What must follow the background (text, grid, shades of counts)
comes from the template alone.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

import plotly.graph_objects as go
import plotly.utils

from hpo import text
from hpo.report.records.landscape import window
from hpo.report.records.parameters import Axis
from storage.history.records import Direction

Theme = Literal["light", "dark"]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#1F83C4", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BROWN = "#8A929C", "#A0785A"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "cross")
STATE_COLOURS = {
    "complete": BLUE,
    "pruned": ORANGE,
    "failed": RED,
    "diverged": PURPLE,
    "running": GREEN,
    "parked": SKY,
    "waiting": GREY,
    "infeasible": BROWN,  # complete or pruned, and breaks a constraint
}
STATE_MARKERS = {
    "complete": "circle",
    "pruned": "triangle-down-open",
    "failed": "x",
    "diverged": "triangle-up",
    "running": "diamond",
    "parked": "square-open",
    "waiting": "circle-open",
    "infeasible": "cross-open",
}
ATTEMPT_LOOKS = {  # colour and hatching by how an attempt ended, in the order of the legend
    "complete": (BLUE, ""),
    "pruned": (ORANGE, "/"),
    "failed": (RED, "x"),
    "diverged": (PURPLE, "\\"),
    "lost": (GREY, "+"),
    "released": (SKY, "-"),
    "cancelled": (GREY, "|"),
    "parked": (ORANGE, "-"),
    "running": (GREEN, "."),
}
BEST_COLOUR, BEST_MARKER = RED, "star"
SURFACE = "Cividis"  # made for colour deficiencies: rises evenly in lightness
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_INK = {
    "light": ("#1d2530", "#ffffff", "#e3e7ec", "#c3cad3"),
    "dark": ("#e4e8ee", "#171c23", "#2b333d", "#4a5461"),
}

_SHADES = {  # of counts: from the background to a strong blue, so that zero is no colour at all
    "light": [[0, "#ffffff"], [0.5, "#7db8e0"], [1, "#0b5c94"]],
    "dark": [[0, "#171c23"], [0.5, "#1d5f8f"], [1, "#7cc4f2"]],
}
_VEIL = {"light": "rgba(255,255,255,0.82)", "dark": "rgba(23,28,35,0.82)"}  # behind text on lines


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
        # Hidden labels are not measured: where all are, plotly.js puts the title at -Infinity.
        "ticklabeloverflow": "allow",
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
            "coloraxis": {"colorscale": _SHADES[theme], "colorbar": {"outlinewidth": 0}},
            "annotationdefaults": {"bgcolor": _VEIL[theme], "borderpad": 1},
        }
    )


@cache
def templates() -> dict[str, Any]:
    """Both templates by theme, as JSON types."""
    return {theme: template(theme).to_plotly_json() for theme in get_args(Theme)}


def encode(value: Any) -> str:
    """JSON with NaN and infinities as null; understands figures."""
    return json.dumps(value, cls=plotly.utils.PlotlyJSONEncoder, separators=(",", ":"))


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """The figure in a theme; changes and returns it."""
    figure.layout.template = template(theme)
    return figure


def plain(item: object, limit: int = text.MAX_LABEL) -> str:
    """A user's text as plotly shows it literally: no tags, no entities, no hover placeholders."""
    return html.escape(text.label(item, limit), quote=False).replace("%{", "% {")


def short(values: Sequence[float], digits: int = 5) -> list[float]:
    """Rounded to significant digits, which is what keeps a report of 1,000 trials small."""
    return [float(f"{value:.{digits}g}") for value in values]


def look(index: int) -> tuple[str, str, str]:
    """Colour, dash and marker of one of several lines: of 36, no two have the same colour and dash."""
    colours = len(PALETTE)
    return (
        PALETTE[index % colours],
        DASHES[(index + index // colours) % len(DASHES)],
        MARKERS[index % len(MARKERS)],
    )


def finish(
    figure: go.Figure,
    title: str,
    x: str | None = None,
    y: str | None = None,
    height: int | None = None,
    **layout: Any,
) -> go.Figure:
    """Titles, the legend above the plot on the left; a `height` the data decide. Its theme is given it where
    it is shown (`themed`).

    Margins have room for what usually stands in them: where there is too little a browser draws twice.
    """
    named = [t for t in figure.data if t.name and t.showlegend is not False]
    legend = layout.pop("showlegend", len(named) > 1 or any(t.showlegend for t in figure.data))
    figure.update_layout(
        template=None,
        showlegend=legend,
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
        margin={"l": 68, "r": 20, "t": 84 if legend else 56, "b": 58, **layout.pop("margin", {})},
        height=height,
        hovermode="closest",
        **layout,
    )
    if x is not None:
        figure.update_xaxes(title_text=plain(x, 80))
    if y is not None:
        figure.update_yaxes(title_text=plain(y, 80))
    return figure


def link(figure: go.Figure, **axes: Any) -> None:
    """Say that the points' `customdata` (or its first entry) are numbers of trials, and what axes show, so
    that a page can lead from a point to its trial and make a filter of a box: axis -> `meaning`.
    """
    figure.layout.meta = {"trials": True, **axes}


def meaning(axis: Axis) -> dict[str, Any]:
    """A parameter's axis, for `link`; a user's text is escaped, as everywhere in a figure."""
    name = html.escape(axis.name, quote=False)
    if axis.kind == "categorical":
        return {"name": name, "choices": [html.escape(choice, quote=False) for choice in axis.choices]}
    return {"name": name, "low": axis.low, "high": axis.high, "log": axis.log, "whole": axis.kind == "int"}


def frame(figure: go.Figure, values: Sequence[float], direction: Direction, *, whole: bool = False) -> None:
    """Cut the value axis where a few diverged trials would flatten all others (not if `whole`)."""
    if not values:
        figure.update_yaxes(showticklabels=False)
        return
    low, high = (min(values), max(values)) if whole else window(values, direction)
    if out := sum(not low <= value <= high for value in values):
        above = direction == "minimize"
        words = f"{out:,} above ↑" if above else f"{out:,} below ↓"
        place = {"x": 1, "y": float(above), "yanchor": "top" if above else "bottom", "xanchor": "right"}
        place["yshift"] = 0 if above else 12  # above the marks of failed trials
        figure.add_annotation(text=words, showarrow=False, xref="paper", yref="paper", **place)
    if low == high or (low, high) != (min(values), max(values)):
        pad = 0.05 * ((high - low) or abs(low)) or 1.0
        figure.update_yaxes(range=[low - pad, high + pad])


def parameter_axis(axis: Axis) -> dict[str, Any]:
    """Layout of an axis that shows a parameter: its scale, or its choices at positions 0, 1, ..."""
    title = {"text": plain(axis.name) + (" (log scale)" if axis.log else "")}
    if axis.kind == "categorical":
        labels = [_folded(choice) for choice in axis.choices]
        return {
            "type": "linear",
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "range": [-0.5, len(labels) - 0.5],
            "title": title,
        }
    if axis.log:
        ticks = nice_ticks(axis)
        ends = [math.log10(axis.low), math.log10(axis.high)]
        pad = 0.04 * (ends[1] - ends[0])
        return {
            "type": "log",
            "title": title,
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [tick_label(tick) for tick in ticks],
            "range": [ends[0] - pad, ends[1] + pad],
        }
    pad = 0.04 * (axis.high - axis.low)
    return {"type": "linear", "title": title, "nticks": 6, "range": [axis.low - pad, axis.high + pad]}


def _folded(choice: str) -> str:
    """A choice as a label of few characters a line, so that many stand side by side."""
    lines = textwrap.wrap(text.label(choice, 28), 9, break_long_words=False) or [choice]
    return "<br>".join(plain(line, 16) for line in lines)


def nice_ticks(axis: Axis, most: int = 6) -> list[float]:
    """Round values inside a numeric axis: decades (or 1-2-5 in a short range) where logarithmic."""
    low, high = axis.low, axis.high
    if axis.log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for mantissas in ((1, 2, 5), (1, 3), (1,)):
            ticks = [m * 10.0**e for e in range(first, last + 1) for m in mantissas]
            ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
            if len(ticks) <= most:
                return ticks or [low, high]
        return ticks[:: -(-len(ticks) // most)]
    if high <= low:
        return [low]
    raw = (high - low) / (most - 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= raw)
    if axis.kind == "int":
        step = max(1.0, float(round(step)))
    start = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(start, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """ "0.01", "200", and powers of ten where the digits would be many."""
    if value and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)) + 1e-9)
        mantissa = round(value / 10.0**exponent, 3)
        power = f"10<sup>{exponent}</sup>".replace("-", "−")
        return power if mantissa == 1 else f"{mantissa:g}×{power}"
    return f"{value:g}"


def empty(title: str, reason: str) -> go.Figure:
    """A figure that says why there is nothing to see."""
    figure = go.Figure()
    figure.add_annotation(text=plain(reason, 200), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    finish(figure, title, height=180)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
