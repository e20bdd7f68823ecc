"""One self-contained HTML file: opens offline, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

import jinja2
import plotly.offline

from hpo import text
from hpo.errors import UserError
from hpo.files import write_whole
from hpo.report.chart import Picture
from hpo.report.drawing import theme
from hpo.report.records.progress import ParetoPoint, pareto
from hpo.report.records.summary import Summary, TrialTable, comparison, summarize, trial_table
from hpo.report.records.training import Evaluation, evaluations, on_test_set
from hpo.report.sections import Section, comparison_sections, short_sections, study_sections
from hpo.report.templating import templates
from storage.history.records import StudyHistory


@dataclass(frozen=True)
class StudyPart:
    """One study as the template shows it."""

    id: str
    history: StudyHistory
    summary: Summary
    sections: tuple[Section, ...]
    table: TrialTable | None
    best: tuple[tuple[str, str], ...]
    front: tuple[ParetoPoint, ...]
    validation: Evaluation | None
    test: Evaluation | None
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
    `written` is the time shown in the footer (now by default).

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
    sections = [*compared, *(section for part in parts for section in part.sections)]
    return str(
        _environment()
        .get_template("report.html")
        .render(
            title=title or (" · ".join(h.name for h in histories) if several else histories[0].name),
            several=several,
            parts=parts,
            compared=compared,
            rows=comparison(tuple(histories)) if several else (),
            incomparable=several and not compared and any(part.summary.counts["complete"] for part in parts),
            written=(written or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
            figures=_figures_json([picture for section in sections for picture in section.pictures]),
            css=_asset("report.css"),
            js=_asset("drawing.js") + _asset("report.js"),
            plotlyjs=plotly.offline.get_plotlyjs(),
        )
    )


def _part(history: StudyHistory, index: int, several: bool) -> StudyPart:
    prefix = f"s{index}-" if several else ""
    summary = summarize(history)
    front = pareto(history)
    validation, test = evaluations(history)
    measured = [evaluation.metrics if evaluation else {} for evaluation in (validation, test)]
    names = list(dict.fromkeys(name for metrics in measured for name in metrics))
    return StudyPart(
        id=f"study-{index}",
        history=history,
        summary=summary,
        sections=short_sections(history, prefix) if several else study_sections(history),
        table=None if several else trial_table(history),
        best=tuple((name, text.value(v)) for name, v in summary.best.params.items()) if summary.best else (),
        front=front.front if front else (),
        validation=validation,
        test=test,
        spec=json.dumps(dict(history.spec), indent=2, ensure_ascii=False, default=str),
        test_headline=on_test_set(history),
        metrics=tuple((name, measured[0].get(name), measured[1].get(name)) for name in names),
    )


def _figures_json(pictures: Sequence[Picture]) -> str:
    """Figures by id and both templates, safe inside a script element: no "<", ">" or "&" in it."""
    shown = {picture.id: picture.untitled() for picture in pictures}
    encoded = theme.encode({"figures": shown, "templates": theme.templates()})
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _environment() -> jinja2.Environment:
    return templates("hpo.report")


@cache
def _asset(name: str) -> str:
    return files("hpo.report").joinpath("templates", name).read_text(encoding="utf-8")
