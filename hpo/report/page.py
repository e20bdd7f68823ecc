"""One self-contained HTML file: opens offline, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
import plotly.utils

from hpo.errors import UserError
from hpo.files import write_whole
from hpo.report import data, figures, text
from hpo.report.markdown import write_markdown
from hpo.report.pictures import write_pngs
from hpo.report.sections import Chart, Section, comparison_sections, short_sections, study_sections
from hpo.report.templating import templates
from hpo.search.history import StudyHistory

__all__ = ["render", "write_markdown", "write_pngs", "write_report"]


@dataclass(frozen=True)
class StudyPart:
    """One study as the template shows it."""

    id: str
    history: StudyHistory
    summary: data.Summary
    sections: tuple[Section, ...]
    table: data.TrialTable | None
    best: tuple[tuple[str, str], ...]
    front: tuple[data.ParetoPoint, ...]
    validation: data.Evaluation | None
    test: data.Evaluation | None
    spec: str
    test_headline: tuple[str, float] | None
    metrics: tuple[tuple[str, float | None, float | None], ...]  # name, validation, test


def write_report(
    histories: Sequence[StudyHistory],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    written: datetime | None = None,
) -> Path:
    """Write the report of one study, or the comparison of several, and return its path.

    The file is written aside and renamed, so that a reader sees the old report or the new one, never half.
    ``written`` is the time shown in the footer (now by default).

    Raises UserError for no study or a path that cannot be a file, HpoError where the disk refuses.
    """
    return write_whole(Path(path), render(histories, title=title, written=written), "report")


def render(
    histories: Sequence[StudyHistory], *, title: str | None = None, written: datetime | None = None
) -> str:
    """The report as text, with plotly.js inside."""
    if not histories:
        raise UserError("A report needs at least one study; none was given.")
    several = len(histories) > 1
    compared = comparison_sections(histories) if several else ()
    parts = tuple(_part(history, index, several) for index, history in enumerate(histories, start=1))
    charts = [chart for section in compared for chart in section.charts]
    charts += [chart for part in parts for section in part.sections for chart in section.charts]
    return str(
        _environment()
        .get_template("report.html")
        .render(
            title=title or (" · ".join(h.name for h in histories) if several else histories[0].name),
            several=several,
            parts=parts,
            compared=compared,
            rows=data.comparison(tuple(histories)) if several else (),
            incomparable=several and not compared and any(part.summary.counts["complete"] for part in parts),
            written=(written or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
            figures=_figures_json(charts),
            css=_asset("report.css"),
            js=_asset("report.js"),
            plotlyjs=plotly.offline.get_plotlyjs(),
        )
    )


def _part(history: StudyHistory, index: int, several: bool) -> StudyPart:
    prefix = f"s{index}-" if several else ""
    summary = data.summarize(history)
    front = data.pareto(history)
    validation = data.read_evaluation(history.winner_evaluation)
    test = data.read_evaluation(history.test_evaluation, "test")
    measured = [evaluation.metrics if evaluation else {} for evaluation in (validation, test)]
    names = list(dict.fromkeys(name for metrics in measured for name in metrics))
    return StudyPart(
        id=f"study-{index}",
        history=history,
        summary=summary,
        sections=short_sections(history, prefix) if several else study_sections(history),
        table=None if several else data.trial_table(history),
        best=tuple((name, text.value(v)) for name, v in summary.best.params.items()) if summary.best else (),
        front=front.front if front else (),
        validation=validation,
        test=test,
        spec=json.dumps(dict(history.spec), indent=2, ensure_ascii=False, default=str),
        test_headline=data.headline(test, summary.value_names[0]),
        metrics=tuple((name, measured[0].get(name), measured[1].get(name)) for name in names),
    )


def _figures_json(charts: Sequence[Chart]) -> str:
    """Figures by id and both templates, safe inside a script element.

    Titles and templates are left out of the figures: the page has headings, and its script sets the theme.
    """
    shown = {}
    for chart in charts:
        raw = chart.figure.to_plotly_json()
        layout = {key: value for key, value in raw["layout"].items() if key not in ("template", "title")}
        margin = {**layout.get("margin", {})}
        margin["t"] = max(16, margin.get("t", 56) - 36)  # the room the title had
        shown[chart.id] = {"data": raw["data"], "layout": {**layout, "margin": margin}}
    templates = {theme: figures.template(theme).to_plotly_json() for theme in ("light", "dark")}
    return script_json({"figures": shown, "templates": templates})


def script_json(value: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: no "<", ">" or "&" in it, NaN as null."""
    encoded = json.dumps(value, cls=plotly.utils.PlotlyJSONEncoder, separators=(",", ":"))
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def chart_title(chart: Chart) -> str:
    """The figure's own title. It is escaped already: show it as it is."""
    return str(chart.figure.layout.title.text or "")


@cache
def _environment() -> jinja2.Environment:
    environment = templates("hpo.report")
    environment.filters["chart_title"] = chart_title
    return environment


@cache
def _asset(name: str) -> str:
    return files("hpo.report").joinpath("templates", name).read_text(encoding="utf-8")
