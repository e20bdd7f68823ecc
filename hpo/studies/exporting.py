"""Every trial in a file that other tools read; and one flat row a trial, for data frames too."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from hpo.errors import UserError
from hpo.files import write_whole
from hpo.studies import answers
from storage.history.records import StudyHistory


def export(history: StudyHistory, path: Path) -> None:
    """Write trials as CSV (one flat row each), JSON (all there is) or Parquet, by the file's ending.

    Raises:
        UserError: the ending is none of these, or Parquet's library is not installed.
        HpoError: the disk refuses.
    """
    import pandas as pd

    match path.suffix.lower():
        case ".json":
            text = json.dumps(
                answers.plain([answers.trial(trial) for trial in history.trials]), indent=2, allow_nan=False
            )
            content = (text + "\n").encode()
        case ".csv":
            content = pd.DataFrame(flat_rows(history)).to_csv(index=False).encode()
        case ".parquet":
            buffer = io.BytesIO()
            frame = pd.DataFrame(flat_rows(history))
            for column in frame:
                if frame[column].dtype == object and frame[column].dropna().map(type).nunique() > 1:
                    frame[column] = frame[column].map(lambda item: None if item is None else str(item))
            try:
                frame.to_parquet(buffer, index=False)
            except ImportError as error:
                raise UserError("writing Parquet needs pyarrow: pip install 'hpo[parquet]'") from error
            content = buffer.getvalue()
        case other:
            raise UserError(f"{path}: the file's ending must be .csv, .json or .parquet, not {other!r}")
    write_whole(path, content, "export")


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
    return json.dumps(answers.plain(value)) if isinstance(value, list | dict) else value
