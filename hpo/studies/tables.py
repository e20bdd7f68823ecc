"""Histories as plain values: what `--format json`, exports and data frames are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hpo.search.history import StudyHistory, TrialRecord
from hpo.studies.reading import best_of
from storage.database.records import Counts, StudyRow


def study_json(row: StudyRow, found: Counts, history: StudyHistory) -> dict[str, Any]:
    """What `hpo show NAME --format json` prints."""
    winners = best_of(history.trials, history.directions)
    short = [best_json(trial) for trial in winners]
    several = len(history.directions) > 1
    evaluation = history.test_evaluation
    return {
        "name": row.name,
        "state": row.state.value,
        "ended_why": row.ended_why,
        "objective": row.spec["objective"],
        "directions": list(history.directions),
        "sampler": row.spec["sampler"],
        "pruner": row.spec["pruner"],
        "keep": row.spec.get("keep"),
        "budget": {
            "trials": row.budget_trials,
            "seconds": row.budget_seconds,
            "target": row.budget_target,
        },
        "trials": counts_json(found),
        "best": short if several else (short[0] if short else None),
        "test": None if evaluation is None else evaluation.get("metrics"),
        "seconds_used": round(row.seconds_used, 3),
        "created": iso(history.created),
        "artifacts": row.artifacts,
        "digest": row.digest,
    }


def counts_json(found: Counts) -> dict[str, int]:
    """Trials by the states people see."""
    return {
        "complete": found.complete,
        "pruned": found.pruned,
        "failed": found.failed + found.cancelled,
        "diverged": found.diverged,
        "running": found.running,
        "waiting": found.waiting,
    }


def best_json(trial: TrialRecord) -> dict[str, Any]:
    """A best trial in short."""
    return {"number": trial.number, "values": finite(trial.values), "params": dict(trial.params)}


def trial_json(trial: TrialRecord) -> dict[str, Any]:
    """One trial, as `hpo trials NAME --format json` lists it."""
    return {
        "number": trial.number,
        "state": trial.state,
        "values": finite(trial.values),
        "params": dict(trial.params),
        "attempts": trial.attempts,
        "ticket": trial.ticket,
        "worker": trial.worker,
        "runner": trial.runner,
        "device": trial.device,
        "started": iso(trial.started),
        "finished": iso(trial.finished),
        "seconds": None if trial.seconds is None else round(trial.seconds, 3),
        "reports": [{"step": step, "value": finite(value)} for step, value in trial.reports.items()],
        "metrics": {
            name: [{"step": step, "value": finite(value)} for step, value in series.items()]
            for name, series in trial.metrics.items()
        },
        "user_attrs": finite(trial.user_attrs),
        "error": trial.error,
    }


def flat_rows(history: StudyHistory) -> list[dict[str, Any]]:
    """One flat row a trial: for CSV, Parquet and data frames. Columns are the same in every row."""
    names = list(dict.fromkeys(name for trial in history.trials for name in trial.params))
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
            "last_report": list(trial.reports.values())[-1] if trial.reports else None,
            "error": trial.error,
        }
        for trial in history.trials
    ]


def _cell(value: Any) -> Any:
    """What fits into one cell: a list or a mapping becomes its JSON."""
    return json.dumps(finite(value)) if isinstance(value, list | dict) else value


def iso(time: datetime | None) -> str | None:
    """ISO 8601 in UTC, or None."""
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None (JSON has no word for them)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [finite(item) for item in value]
    return value
