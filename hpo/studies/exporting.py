"""Every trial in a file that other tools read."""

from __future__ import annotations

import io
import json
from pathlib import Path

from hpo.errors import HpoError, UserError
from hpo.files import write_whole
from hpo.studies import answers
from hpo.studies.tables import flat_rows
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
    if not content:
        raise HpoError(f"nothing to write to {path}")
    write_whole(path, content, "export")
