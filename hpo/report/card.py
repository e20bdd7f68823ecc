"""A study as a card, for a notebook."""

from __future__ import annotations

from collections import Counter
from html import escape

from hpo import text
from storage.history.records import STATES, StudyHistory


def card(history: StudyHistory) -> str:
    """HTML: name, state, how many trials, the best and its parameters. Everything in it is escaped."""
    counts = Counter(trial.state for trial in history.trials)
    done = sum(trial.ended for trial in history.trials)
    total = "" if history.budget_trials is None else f" of {history.budget_trials}"
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    rows = [("trials", f"{done}{total} ended" + (f": {told}" if told else ""))]
    if history.best is not None:
        best = history.best
        value = ", ".join(text.number(one) for one in best.values or ())
        rows.append(("best", f"{value} (trial {best.number})"))
        rows += [(name, text.value(given)) for name, given in best.params.items()]
    elif history.winners:
        rows.append(("front", ", ".join(f"trial {trial.number}" for trial in history.winners)))
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(shown)}</td></tr>'
        for name, shown in rows
    )
    return (
        f"<table><caption><b>{escape(history.name)}</b> is {escape(history.state)}</caption>{lines}</table>"
    )
