"""Figures of how a search went."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo import text
from hpo.report.drawing import theme
from hpo.report.drawing.theme import finish, frame, plain, short
from hpo.report.records.landscape import window
from hpo.report.records.progress import (
    BestSoFar,
    Edf,
    History,
    HistoryPoint,
    Machines,
    Pareto,
    ParetoPoint,
    Timeline,
)

MAX_STUDIES = 12


def history_figure(history: History, title: str) -> go.Figure:
    """Every trial's value over its number, with the best so far as steps."""
    figure = go.Figure()
    values = [point.value for point in history.points if point.value is not None]
    for state in ("infeasible", "complete", "pruned"):
        points = [p for p in history.points if _look(p) == state and p.value is not None]
        if points:
            figure.add_scatter(
                x=[point.number for point in points],
                y=short([point.value for point in points if point.value is not None]),
                customdata=[point.number for point in points],
                mode="markers",
                name=f"{state} (last report)" if state == "pruned" else state,
                marker=_state_marker(state, len(history.points)),
                hovertemplate=f"trial %{{x}}: %{{y}}<extra>{state}</extra>",
            )
    bottom = min(window(values, history.direction)) if values else 0.0
    for state in ("failed", "diverged", "complete"):
        numbers = [point.number for point in history.points if point.state == state and point.value is None]
        if numbers:
            figure.add_scatter(
                x=numbers,
                y=[bottom] * len(numbers),
                customdata=numbers,
                mode="markers",
                name="infinite" if state == "complete" else f"{state} (no value)",
                marker=_state_marker(state, len(history.points)),
                hovertemplate=f"trial %{{x}}<extra>{state}</extra>",
            )
    if history.best:
        figure.add_scatter(
            **_steps(history.best),
            customdata=[int(number) for number in history.best.x],
            name="best so far",
            line={"color": theme.RED, "width": 2.5},
        )
    theme.link(figure, x={"name": "number", "whole": True}, y={})
    finish(figure, title, "Trial number", history.axis, showlegend=True)
    last = max((point.number for point in history.points), default=0)
    if last <= 12:
        figure.update_xaxes(dtick=1, range=[-0.5, last + 0.5])  # there is no trial -1
    frame(figure, values, history.direction)
    return figure


def best_figure(lines: Sequence[BestSoFar], title: str) -> go.Figure:
    """Best so far of one or several studies over the same: trials, epochs or wall seconds."""
    figure = go.Figure()
    over, step = lines[0].over, lines[0].step_name
    longest = max(line.end for line in lines)
    scale, unit = _time_unit(longest) if over == "seconds" else (1.0, "")
    for index, line in enumerate(lines[:MAX_STUDIES]):
        colour, dash, symbol = theme.look(index)
        figure.add_scatter(
            **_steps(line, scale),
            name=plain(line.study),
            line={"color": colour, "width": 2.5, "dash": dash},
            marker={"symbol": symbol, "size": 8, "color": colour},
            showlegend=len(lines) > 1,
        )
    x_titles = {
        "trials": "Trial number",
        "epochs": f"{step.capitalize()}s trained, all trials together",
        "seconds": f"Time since the first trial started ({unit})",
    }
    finish(figure, title, x_titles[over], lines[0].axis)
    longest /= scale
    figure.update_xaxes(range=[-0.02 * longest, 1.03 * longest or 1.0])
    frame(figure, [value for line in lines for value in line.value], lines[0].direction)
    return figure


def edf_figure(records: Sequence[Edf], title: str) -> go.Figure:
    """Share of trials with a value of at most x, for one or several studies."""
    figure = go.Figure()
    for index, record in enumerate(records[:MAX_STUDIES]):
        colour, dash, _ = theme.look(index)
        figure.add_scatter(
            x=short([record.value[0], *record.value]),
            y=short([0.0, *(100 * share for share in record.share)], 4),
            mode="lines",
            name=plain(record.study),
            line={
                "color": colour,
                "width": 2.5,
                "shape": "hv",
                "dash": dash,
            },
            showlegend=len(records) > 1,
            hovertemplate="%{y:.1f} % of trials are at most %{x}<extra></extra>",
        )
    finish(figure, title, records[0].axis, "Trials at or below (%)")
    figure.update_yaxes(range=[-2, 103])
    ends = [end for record in records for end in (record.value[0], record.value[-1])]
    pad = 0.04 * ((max(ends) - min(ends)) or 1.0)
    figure.update_xaxes(range=[min(ends) - pad, max(ends) + pad])
    figure.layout.meta = {"x": {}}  # a stretch of it is a filter of values
    return figure


def pareto_figure(record: Pareto, title: str) -> go.Figure:
    """Two directions: the front over the dominated trials. More: the first three pairs side by side."""
    pairs = list(combinations(range(len(record.names)), 2))[:3]
    figure = make_subplots(rows=1, cols=len(pairs), horizontal_spacing=0.1)
    rest = [point for point in record.points if not point.on_front and point.feasible]
    broken = [point for point in record.points if not point.feasible]
    front = list(record.front)
    shown: dict[str, Any] = {}
    for column, (a, b) in enumerate(pairs, start=1):
        first = column == 1
        ordered = sorted(front, key=lambda point: (point.values[a], point.values[b]))
        lined = "lines+markers" if len(record.names) == 2 else "markers"
        shape = "vh" if record.directions[a] == "maximize" else "hv"
        for points, look in (
            (
                rest,
                {"name": "dominated", "marker": {"color": theme.GREY, "symbol": "circle-open", "size": 7}},
            ),
            (broken, {"name": "infeasible", "marker": _state_marker("infeasible", len(broken))}),
            (
                ordered,
                {
                    "name": "Pareto front",
                    "mode": lined,
                    "marker": {"color": theme.BLUE, "symbol": "diamond", "size": 10},
                    "line": {"color": theme.BLUE, "width": 1.5, "dash": "dot", "shape": shape},
                },
            ),
        ):
            if points or look["name"] != "infeasible":
                style = {"mode": "markers", **look, "showlegend": first}
                figure.add_scatter(**_pareto_points(points, a, b), **style, row=1, col=column)
        figure.update_xaxes(title_text=plain(record.axes[a], 80), row=1, col=column)
        figure.update_yaxes(title_text=plain(record.axes[b], 80), row=1, col=column)
        place = "" if first else str(column)
        shown |= {f"x{place}": {"name": f"value:{a + 1}"}, f"y{place}": {"name": f"value:{b + 1}"}}
    theme.link(figure, **shown)
    return finish(figure, title)


def timeline_figure(record: Timeline, title: str = "Timeline by runner") -> go.Figure:
    """One lane per runner, one bar per attempt, coloured and hatched by how it ended."""
    figure = go.Figure()
    scale, unit = _time_unit(max((bar.end for bar in record.bars), default=0.0))
    lanes = {lane: index for index, lane in enumerate(record.lanes)}
    for state, (colour, pattern) in theme.ATTEMPT_LOOKS.items():
        bars = [bar for bar in record.bars if bar.state == state]
        if bars:
            figure.add_bar(
                orientation="h",
                base=short([bar.start / scale for bar in bars], 6),
                x=short([(bar.end - bar.start) / scale for bar in bars], 4),
                y=[lanes[bar.lane] for bar in bars],
                width=0.72,
                name=state,
                marker={
                    "color": colour,
                    "pattern": {
                        "shape": pattern,
                        "size": 6,
                        "solidity": 0.2,
                        "fillmode": "overlay",
                        "fgcolor": "rgba(255,255,255,0.65)",
                    },
                    "line": {"width": 0.5, "color": "rgba(128,128,128,0.6)"},
                },
                customdata=[[bar.number, bar.attempt, text.duration(bar.end - bar.start)] for bar in bars],
                hovertemplate="trial %{customdata[0]}, attempt %{customdata[1]}, %{customdata[2]}"
                f"<extra>{state}</extra>",
            )
    theme.link(figure)
    height = 170 + 34 * max(2, len(lanes))
    finish(
        figure,
        title,
        f"Time since the first trial started ({unit})",
        None,
        height,
        barmode="overlay",
        showlegend=True,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(lanes.values()),
        ticktext=[plain(lane, 28) for lane in lanes],
        range=[len(lanes) - 0.5, -0.5],
        title_text="Runner",
        showgrid=False,
    )
    if record.note and record.bars:  # cut: it begins where the first bar does
        ends = [min(bar.start for bar in record.bars) / scale, max(bar.end for bar in record.bars) / scale]
        figure.update_xaxes(range=[ends[0], ends[1] + 0.03 * (ends[1] - ends[0])])
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure


def machines_figure(record: Machines, title: str = "Machines") -> go.Figure:
    """A row for each kind of meter, a line for each worker; of several cards each has its dash."""
    rows = sorted({_meter(load.what) for load in record.loads}, key=_METERS.index)
    names = list(dict.fromkeys(load.worker for load in record.loads))
    scale, unit = _time_unit(max(load.seconds[-1] for load in record.loads))
    titles = [f"{row}, %" for row in rows]
    figure = make_subplots(len(rows), 1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles)
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    shown: set[str] = set()
    for load in record.loads:
        card = "".join(filter(str.isdigit, load.what))
        colour, _, _ = theme.look(names.index(load.worker))
        figure.add_scatter(
            x=short([second / scale for second in load.seconds]),
            y=list(load.shares),
            mode="lines" if len(load.seconds) > 1 else "markers",
            name=plain(load.worker, 28),
            legendgroup=load.worker,
            showlegend=len(names) > 1 and load.worker not in shown,
            line={"color": colour, "width": 1.8, "dash": theme.DASHES[int(card or 0) % len(theme.DASHES)]},
            hovertemplate=f"%{{y}} % at %{{x}} {unit}<extra>{plain(load.worker, 28)}: {load.what}</extra>",
            row=rows.index(_meter(load.what)) + 1,
            col=1,
        )
        shown.add(load.worker)
    finish(figure, title, None, None, 120 + 95 * len(rows))
    figure.update_xaxes(range=[0, max(load.seconds[-1] for load in record.loads) / scale])
    figure.update_xaxes(title_text=f"Time since {record.since} ({unit})", row=len(rows), col=1)
    figure.update_yaxes(range=[-4, 104])
    return figure


_METERS = ("runners", "processors", "memory", "GPU", "GPU memory")


def _meter(what: str) -> str:
    """The kind of a meter: "GPU memory" of "GPU 3 memory"."""
    return re.sub(r" \d+", "", what)


def _steps(line: BestSoFar, scale: float = 1.0) -> dict[str, object]:
    """A staircase with a marker at each improvement, drawn on to the end of the search."""
    closing = line.end > line.x[-1]
    xs = [*line.x, line.end] if closing else list(line.x)
    values = [*line.value, line.value[-1]] if closing else list(line.value)
    return {
        "x": short([x / scale for x in xs], 6),
        "y": short(values, 6),
        "mode": "lines+markers",
        "line_shape": "hv",
        "marker_opacity": [1.0] * len(line.x) + [0.0] * closing,
        "hovertemplate": "%{y} at %{x}<extra>%{fullData.name}</extra>",
    }


def _look(point: HistoryPoint) -> str:
    return point.state if point.feasible else "infeasible"


def _state_marker(state: str, n: int) -> dict[str, object]:
    return {
        "color": theme.STATE_COLOURS[state],
        "symbol": theme.STATE_MARKERS[state],
        "size": 8 if n <= 200 else 6 if n <= 800 else 4,
        "opacity": 0.85 if n <= 200 else 0.6,
    }


def _pareto_points(points: list[ParetoPoint], a: int, b: int) -> dict[str, object]:
    return {
        "x": short([point.values[a] for point in points]),
        "y": short([point.values[b] for point in points]),
        "customdata": [point.number for point in points],
        "hovertemplate": "trial %{customdata}: %{x}, %{y}<extra></extra>",
    }


def _time_unit(seconds: float) -> tuple[float, str]:
    """Seconds per unit, and the unit an axis of this length reads best in."""
    if seconds < 180:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")
