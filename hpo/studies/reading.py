"""Read a study from the database: its row, its whole history, what its trials left behind."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.errors import NotFoundError
from hpo.studies import confirmed
from storage.database.engine import Database, Transaction
from storage.database.errors import (
    ArtifactError,
    ArtifactsAwayError,
    BadArtifactUrlError,
    StorageError,
    UnknownStudyError,
)
from storage.database.records import Counts, StudyRow
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.history.attempts import file_of, machines_of
from storage.history.records import Confirmation, Machine, StudyHistory, TrialRecord
from storage.history.trials import history_of, read_trials
from storage.queue import studies, tickets

_WITHIN_CHARACTER = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin none


def get_study(database: Database, name: str) -> StudyRow:
    """One study.

    Raises:
        NotFoundError: there is none of that name; a near one is offered.
    """
    try:
        row = database.read(studies.get, name)
        if row.repeats_of is not None:
            raise UnknownStudyError(f"there is no study named {name}")
        return row
    except UnknownStudyError as error:
        from hpo.spec.problems import nearest  # brings the models of study files

        raise NotFoundError(f"{error}{nearest(name, database.read(studies.names))}") from error


def history(database: Database, name: str, *, evaluated: bool = True) -> StudyHistory:
    """A study and all its trials; `evaluated`: with the winner's evaluation, for which the store is opened.

    Raises:
        NotFoundError: there is none of that name.
    """
    row = get_study(database, name)

    def read(
        connection: Transaction,
    ) -> tuple[dict[int, TrialRecord], Counts, Confirmation | None, tuple[Machine, ...]]:
        trials, counts = read_trials(connection, row), tickets.counts(connection, row.id)
        return trials, counts, confirmed.of(connection, row), machines_of(connection, row)

    trials, counts, confirmation, machines = database.read(read)
    return history_of(
        row,
        trials.values(),
        counts=counts,
        winner_evaluation=lambda number: read_evaluation(database, row, number) if evaluated else None,
        confirmation=confirmation,
        machines=machines,
    )


def read_evaluation(database: Database, row: StudyRow, number: int) -> Mapping[str, Any] | None:
    """A trial's `evaluation.json`; None when it left none, or none that can be read here."""
    try:
        content = read_artifact(database, row, number, "evaluation.json")
        found = None if content is None else json.loads(content)
    except (StorageError, ValueError):  # the store is away or needs a driver; or it is no JSON
        return None
    return found if isinstance(found, dict) else None


def read_artifact(database: Database, row: StudyRow, number: int, name: str) -> bytes | None:
    """A file kept with a trial, checked by its sha256; None when there is none that can be read here.

    Raises:
        ArtifactsAwayError: the artifact store is away.
        BadArtifactUrlError: it cannot be used from here.
    """
    found = database.read(file_of, row, number, name)
    if found is None:
        return None
    try:
        return ArtifactStore(row.artifacts).get(found.path, found.sha256)
    except (ArtifactsAwayError, BadArtifactUrlError):
        raise
    except ArtifactError:
        return None


@dataclass(frozen=True)
class LogPart:
    """Some of what an attempt printed; places are bytes of the log."""

    text: str
    start: int
    end: int  # where the next part begins
    size: int  # of the whole log so far


def read_log(row: StudyRow, trial: int, attempt: int, start: int, length: int) -> LogPart | None:
    """`length` bytes of what one attempt printed so far, from `start` on (below 0: from the end).

    It begins and ends between two characters, so parts can be joined. None when no log can be read here.
    """
    key = f"{checkpoints.trial_key(row.uid, row.first_name, trial)}/{attempt}/log.txt"
    try:
        content, begin, size = ArtifactStore(row.artifacts).part(key, start, length)
    except ArtifactError:  # it is away, needs a driver that is not here, or has none
        return None
    if start < 0 < begin:  # maybe within a character, of at most four bytes
        kept = content.lstrip(_WITHIN_CHARACTER) if len(content) > 4 else content
        begin, content = begin + len(content) - len(kept), kept
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content)
    rest = len(decoder.getstate()[0])
    if rest and begin + len(content) >= size:
        text, rest = text + decoder.decode(b"", final=True), 0
    return LogPart(text, begin, begin + len(content) - rest, size)
