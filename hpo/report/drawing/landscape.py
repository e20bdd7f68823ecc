"""Figures of parameters against values."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from hpo import text
from hpo.report.drawing import theme
from hpo.report.drawing.theme import finish, frame, meaning, parameter_axis, plain, short
from hpo.report.records.landscape import Contour, Parallel, Path, Slice, SlicePoint
from hpo.report.records.parameters import Axis, Importances

OFF = -0.12  # height of lines where a parameter was not active
_RANKS = (  # drawn in this order, so that the best lies on top
    ("pruned", "pruned", theme.GREY, "dot", 1.0, 0.3),
    ("rest", "the rest", theme.GREY, "solid", 1.0, 0.45),
    ("upper", "best third", theme.SKY, "solid", 1.4, 0.8),
    ("top", "best tenth", theme.BLUE, "solid", 2.0, 0.95),
    ("best", "best", theme.BEST_COLOUR, "solid", 3.5, 1.0),
)


def importance_figure(record: Importances, title: str) -> go.Figure:
    """Bars, most important on top, with their intervals; grey where a parameter cannot be told from noise."""
    if not record.entries:
        return theme.empty(title, record.note)
    entries = list(reversed(record.entries))
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        x=short([100 * entry.share for entry in entries], 3),
        y=list(range(len(entries))),
        error_x=_whiskers([(entry.share, entry.low, entry.high) for entry in entries], 100),
        marker={"color": [theme.GREY if entry.noise else theme.BLUE for entry in entries]},
        width=0.62,
        customdata=[[plain(entry.name), entry.said, entry.active] for entry in entries],
        hovertemplate="%{customdata[0]}: %{customdata[1]}, used by %{customdata[2]} trials<extra></extra>",
        showlegend=False,
    )
    ends = [100 * max(entry.share, entry.high) for entry in entries]
    for place, (end, entry) in enumerate(zip(ends, entries, strict=True)):
        _label_right(figure, end, place, entry.said)
    finish(figure, title, "Share of the importance (%)", None, 150 + 30 * len(entries))
    room = 46  # letters beside the names, where the chart is as narrow as it gets
    top = max(end / (1 - (len(entry.said) + 2) / room) for end, entry in zip(ends, entries, strict=True))
    figure.update_xaxes(
        range=[0, max(1.0, top)], tickvals=[*range(0, 101, 10 if top < 80 else 20 if top < 200 else 50)]
    )
    _name_rows(figure, [entry.name for entry in entries], "Parameter")
    return figure


def path_figure(record: Path, title: str) -> go.Figure:
    """Predicted values from the start, on top, to the winner."""
    rows = list(reversed(record.steps))
    figure = go.Figure()
    figure.add_scatter(
        x=short([step.value for step in rows]),
        y=list(range(len(rows))),
        error_x=_whiskers([(s.value, s.value - s.spread, s.value + s.spread) for s in rows]),
        mode="lines+markers",
        line={"color": theme.GREY, "dash": "dot"},
        marker={"color": theme.BLUE, "size": 9},
        customdata=[[plain(step.change, 60), step.said] for step in rows],
        hovertemplate="%{customdata[0]}: %{x}, %{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    finish(figure, title, f"Predicted {record.axis.partition(' (')[0]}", None, 150 + 30 * len(rows))
    _name_rows(figure, [step.change for step in rows], "Changed", 34)
    return figure


def _whiskers(rows: Sequence[tuple[float, float, float]], unit: float = 1.0) -> dict[str, object]:
    """Intervals (value, low, high) as plotly's error bars."""
    return {
        "type": "data",
        "array": short([unit * (high - value) for value, _, high in rows], 3),
        "arrayminus": short([unit * (value - low) for value, low, _ in rows], 3),
        "symmetric": False,
        "thickness": 1.2,
        "width": 3,
        "color": theme.ORANGE,
    }


def _label_right(figure: go.Figure, x: float, y: float, words: str) -> None:
    figure.add_annotation(x=x, y=y, text=words, showarrow=False, xanchor="left", xshift=6, font={"size": 11})


def _name_rows(figure: go.Figure, names: Sequence[str], title: str, limit: int = 24) -> None:
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[plain(name, limit) for name in names],
        title_text=title,
        showgrid=False,
    )


def slice_figure(record: Slice, title: str) -> go.Figure:
    """One parameter against the value; which point is what, the section says."""
    figure = go.Figure()
    if record.boxes:
        names = ("x", "lowerfence", "q1", "median", "q3", "upperfence")
        figure.add_box(
            **{
                name: short(column)
                for name, column in zip(names, zip(*record.boxes, strict=True), strict=True)
            },
            width=0.72,
            line={"color": theme.GREY, "width": 1.2},
            fillcolor="rgba(138, 146, 156, 0.18)",
            hoverinfo="skip",
        )
    points = [point for point in record.points if not point.best]
    fitting = [point for point in points if point.feasible]
    groups = (
        ("infeasible", "infeasible", [point for point in points if not point.feasible]),
        ("pruned (last report)", "pruned", [point for point in fitting if point.pruned]),
        ("complete", "complete", [point for point in fitting if not point.pruned]),
    )
    for name, state, members in groups:
        if members:
            marker = {
                "color": theme.STATE_COLOURS[state],
                "symbol": theme.STATE_MARKERS[state],
                "size": 7 if len(record.points) <= 200 else 5,
                "opacity": 0.75 if len(record.points) <= 200 else 0.5,
            }
            figure.add_trace(_slice_points(members, record.parameter) | {"name": name, "marker": marker})
    best = [point for point in record.points if point.best]
    if best:
        marker = {"color": theme.BEST_COLOUR, "symbol": theme.BEST_MARKER, "size": 13}
        figure.add_trace(_slice_points(best, record.parameter) | {"name": "best", "marker": marker})
    theme.link(figure, x=meaning(record.parameter), y={})
    finish(figure, title, showlegend=False, margin={"l": 84})  # the value's title has two lines
    figure.update_xaxes(parameter_axis(record.parameter))
    figure.update_yaxes(title_text=plain(record.axis, 80).replace(" (", "<br>("))  # the picture is low
    frame(figure, [point.value for point in record.points], record.direction)
    return figure


def _slice_points(points: Sequence[SlicePoint], axis: Axis) -> dict[str, object]:
    """A trace of markers; on a categorical axis spread sideways, by number so that it is the same every time.

    (Plotly checks what is handed to it as a mapping once; what `add_scatter` makes of it, twice.)
    """
    spread = [((point.number * 0.618034) % 1 - 0.5) * 0.5 for point in points]
    categorical = axis.kind == "categorical"
    return {
        "type": "scatter",
        "x": short([p.x + (s if categorical else 0.0) for p, s in zip(points, spread, strict=True)]),
        "y": short([point.value for point in points]),
        "mode": "markers",
        "customdata": [
            [p.number, plain(axis.choices[int(p.x)]) if categorical else text.number(p.x)] for p in points
        ],
        "hovertemplate": "trial %{customdata[0]}: %{y} at %{customdata[1]}<extra></extra>",
    }


def parallel_figure(record: Parallel, title: str) -> go.Figure:
    """Every trial as a line over the parameters and its value.

    Drawn as ordinary lines: works with categorical and inactive parameters, needs no WebGL and no
    `unsafe-eval`, and the groups can be switched off in the legend.
    """
    figure = go.Figure()
    columns = len(record.parameters) + 1
    inactive = any(unit is None for line in record.lines for unit in line.units)
    for rank, name, colour, dash, width, opacity in _RANKS:
        lines = [line for line in record.lines if line.rank == rank]
        xs: list[float | None] = []
        ys: list[float | None] = []
        numbers: list[int | None] = []
        values: list[str | None] = []
        for line in lines:
            heights = [OFF if unit is None else unit for unit in line.units] + [_height(line.value, record)]
            xs += [*map(float, range(columns)), None]
            ys += [*short(heights, 3), None]
            numbers += [*[line.number] * columns, None]
            values += [*[text.number(line.value)] * columns, None]
        if lines:
            figure.add_trace(
                {
                    "type": "scatter",
                    "x": xs,
                    "y": ys,
                    "mode": "lines",
                    "name": f"best: trial {lines[0].number}" if rank == "best" else name,
                    "line": {"color": colour, "width": width, "dash": dash},
                    "opacity": opacity,
                    "customdata": numbers,
                    "text": values,
                    "hovertemplate": "trial %{customdata}: %{text}<extra></extra>",
                }
            )
    ends = {"low": record.low, "high": record.high}
    theme.link(figure, columns=[*map(meaning, record.parameters), ends])
    finish(figure, title, margin={"t": 84, "b": 72, "l": 40, "r": 76})
    _draw_axes(figure, record)
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(columns)),
        ticktext=[_wrapped(axis) for axis in record.parameters]
        + [plain(record.axis, 60).replace(" (", "<br>(")],
        range=[-0.3, columns - 0.45],
        showgrid=False,
        showline=False,
        ticks="",
    )
    figure.update_yaxes(visible=False, range=[OFF - 0.05 if inactive else -0.05, 1.05])
    if inactive:
        figure.add_annotation(
            x=-0.28, y=OFF, text="not used", showarrow=False, xanchor="left", font={"size": 11}, yshift=8
        )
    return figure


def _draw_axes(figure: go.Figure, record: Parallel) -> None:
    """Vertical lines with the values at their ends and at a few places between."""
    columns = [*enumerate((*record.parameters, None))]
    line = {"type": "line", "y0": 0, "y1": 1, "line": {"color": theme.GREY, "width": 1.2}, "layer": "above"}
    figure.update_layout(  # all at once: plotly checks those that are there anew with each that is added
        shapes=[{**line, "x0": column, "x1": column} for column, _ in columns]
    )
    marks = [(column, *mark) for column, axis in columns for mark in _marks(axis, record)]
    figure.add_trace(  # so many annotations take a browser longer than all the lines
        {
            "type": "scatter",
            "x": [column for column, _, _ in marks],
            "y": [unit for _, unit, _ in marks],
            "text": [f" {label}" for _, _, label in marks],
            "mode": "text",
            "textposition": "middle right",
            "textfont": {"size": 11, "shadow": "auto"},
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )


def _marks(axis: Axis | None, record: Parallel) -> list[tuple[float, str]]:
    """Places (0 to 1) and labels along one vertical axis; None is the value's."""
    if axis is None:
        return [(u, text.number(record.low + u * (record.high - record.low), 3)) for u in (0.0, 0.5, 1.0)]
    if axis.kind == "categorical":
        n = len(axis.choices)
        every = max(1, -(-n // 12))
        return [
            (index / (n - 1) if n > 1 else 0.5, plain(choice, 14))
            for index, choice in enumerate(axis.choices)
            if index % every == 0
        ]
    return [(axis.unit(tick) or 0.0, theme.tick_label(tick)) for tick in theme.nice_ticks(axis)]


def _wrapped(axis: Axis) -> str:
    name = plain(axis.name, 16)
    return f"{name}<br>(log)" if axis.log else name


def _height(value: float, record: Parallel) -> float:
    if record.high <= record.low:
        return 0.5
    return min(1.0, max(0.0, (value - record.low) / (record.high - record.low)))


def contour_figure(record: Contour, title: str) -> go.Figure:
    """The smoothed value over two parameters: filled contours, or tiles where one is categorical."""
    figure = go.Figure()
    categorical = "categorical" in (record.x.kind, record.y.kind)
    surface = {
        "x": short(record.grid_x),
        "y": short(record.grid_y),
        "z": [[None if v is None else float(f"{v:.4g}") for v in row] for row in record.values],
        "colorscale": theme.SURFACE,
        "reversescale": record.direction == "minimize",
        "colorbar": {
            "title": {"text": plain(record.axis, 60), "side": "right"},
            "thickness": 14,
            "outlinewidth": 0,
        },
        "hovertemplate": "%{x}, %{y}: about %{z}<extra></extra>",
    }
    if categorical:
        figure.add_heatmap(**surface)
    else:
        figure.add_contour(**surface, contours={"coloring": "fill"}, line={"width": 0.5}, ncontours=14)
    figure.add_scatter(
        x=short([x for _, x, _, _ in record.points]),
        y=short([y for _, _, y, _ in record.points]),
        mode="markers",
        name="trials",
        showlegend=False,
        marker={"color": "#ffffff", "size": 5, "line": {"color": "#1d2530", "width": 1}, "opacity": 0.8},
        customdata=[[number, text.number(value)] for number, _, _, value in record.points],
        hovertemplate="trial %{customdata[0]}: %{customdata[1]}<extra></extra>",
    )
    theme.link(figure, x=meaning(record.x), y=meaning(record.y))
    finish(figure, title)
    figure.update_xaxes(parameter_axis(record.x), showgrid=False)
    figure.update_yaxes(parameter_axis(record.y), showgrid=False)
    return figure
