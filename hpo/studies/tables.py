"""One flat row a trial: for CSV, Parquet and data frames."""

from __future__ import annotations

import json
from typing import Any

from hpo.studies.answers import plain
from storage.history.records import StudyHistory


def flat_rows(history: StudyHistory) -> list[dict[str, Any]]:
    """Columns are the same in every row; times are timezone-aware UTC."""
    names = list(dict.fromkeys(name for trial in history.trials for name in trial.params))
    limited = list(dict.fromkeys(name for trial in history.trials for name in trial.constraints))
    noted = list(dict.fromkeys(name for trial in history.trials for name in trial.user_attrs))
    count = len(history.directions)
    return [
        {
            "number": trial.number,
            "state": trial.state,
            **{
                "value" if count == 1 else f"value_{i}": trial.values[i] if trial.values else None
                for i in range(count)
            },
            **{f"constraints_{name}": trial.constraints.get(name) for name in limited},
            **{f"params_{name}": trial.params.get(name) for name in names},
            **{f"user_attrs_{name}": _cell(trial.user_attrs.get(name)) for name in noted},
            "attempts": trial.attempts,
            "ticket": trial.ticket,
            "worker": trial.worker,
            "device": trial.device,
            "started": trial.started,
            "finished": trial.finished,
            "seconds": None if trial.seconds is None else round(trial.seconds, 3),
            "epochs": len(trial.reports),
            "last_report": trial.last_report,
            "error": trial.error,
        }
        for trial in history.trials
    ]


def _cell(value: Any) -> Any:
    """What fits into one cell: a list or a mapping becomes its JSON."""
    return json.dumps(plain(value)) if isinstance(value, list | dict) else value
