"""The report as Markdown: facts and tables for an issue, a wiki or a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from hpo import text
from hpo.errors import UserError
from hpo.files import write_whole
from hpo.report.records.parameters import axes, importances
from hpo.report.records.scores import ranked, scores
from hpo.report.records.summary import Summary, comparison, summarize
from hpo.report.records.training import evaluations
from storage.history.records import StudyHistory

MAX_ROWS = 20  # best trials listed


def write_markdown(histories: Sequence[StudyHistory], path: str | PathLike[str]) -> Path:
    """Write one study's facts and best trials, or the comparison of several, and return the path.

    Raises UserError for no study or a path that cannot be a file, HpoError where the disk refuses; the file
    that was there is then unchanged.
    """
    return write_whole(Path(path), markdown(histories), "Markdown report")


def markdown(histories: Sequence[StudyHistory]) -> str:
    """The report as Markdown text."""
    if not histories:
        raise UserError("A report needs at least one study; none was given.")
    blocks: list[str] = []
    if len(histories) > 1:
        blocks += [f"# {len(histories)} studies compared", _comparison(histories)]
    level = "#" if len(histories) == 1 else "##"
    for history in histories:
        blocks += _study(history, level)
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(item: object) -> str:
    """A user's text on one line, shown literally: no markup, no HTML, no table breaks."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", text.label(item, 200))


def _study(history: StudyHistory, level: str) -> list[str]:
    facts = summarize(history)
    blocks = [f"{level} {escaped(history.name)}"]
    blocks.append(f"{facts.state} · {escaped(facts.sampler)} sampler · {escaped(facts.pruner)} pruner")
    blocks.append("\n".join(f"- {escaped(sentence)}" for sentence in facts.sentences))
    if facts.best and facts.best.params:
        rows = [(escaped(name), escaped(text.value(v))) for name, v in facts.best.params.items()]
        blocks += [
            f"{level}# Best parameters (trial {facts.best.number})",
            _table(("parameter", "value"), rows),
        ]
    for evaluation in evaluations(history):
        if evaluation and evaluation.metrics:
            title = "Test set, measured once" if evaluation.split == "test" else "Validation set"
            rows = [(escaped(name), text.number(v)) for name, v in evaluation.metrics.items()]
            blocks += [f"{level}# {title}", _table(("metric", "value"), rows)]
    weights = importances(history)
    if weights.entries:
        rows = [(escaped(entry.name), entry.said) for entry in weights.entries]
        blocks += [
            f"{level}# Parameter importances",
            _table(("parameter", "share"), rows),
            escaped(weights.note),
        ]
    return [*blocks, *_best_trials(history, facts, level)]


def _best_trials(history: StudyHistory, facts: Summary, level: str) -> list[str]:
    finished = [score.trial for score in ranked(scores(history, pruned=False), history.directions[0])]
    if not finished:
        return []
    names = [axis.name for axis in axes(history)]
    limited = any(trial.broken for trial in finished)
    rows = [
        (
            str(trial.number),
            *(text.number(v, 5) for v in trial.values or ()),
            text.duration(trial.seconds),
            *("–" if v is None else escaped(text.value(v)) for v in map(trial.params.get, names)),
            *([escaped(", ".join(trial.broken))] if limited else []),
        )
        for trial in finished[:MAX_ROWS]
    ]
    heads = ("trial", *map(escaped, facts.value_names), "time", *map(escaped, names))
    heads += ("breaks",) if limited else ()
    return [f"{level}# Best trials", _table(heads, rows)]


def _comparison(histories: Sequence[StudyHistory]) -> str:
    heads = [
        "study",
        "sampler",
        "pruner",
        "best value",
        "trial",
        "trials",
        "epochs",
        "best after",
        "wall time",
    ]
    rows = [
        (
            escaped(row.name),
            escaped(row.sampler),
            escaped(row.pruner),
            text.number(row.best, 5),
            text.number(row.best_number),
            text.number(row.trials),
            text.number(row.epochs),
            text.duration(row.found_after_seconds),
            text.duration(row.seconds),
        )
        for row in comparison(tuple(histories))
    ]
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
