"""A file that one worker removes while another begins to share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.database.engine import Database
from storage.database.records import KeptFile
from storage.files import kept_files, retention
from storage.files.artifacts import ArtifactStore, digest
from storage.files.kept_files import MODEL
from tests.integration.conftest import Stage
from tests.support.kept import finished, spec, weights
from tests.support.shared import Opener, make_study

pytestmark = pytest.mark.postgres


def test_a_file_that_another_trial_just_shares_is_not_removed(
    database: Database, party: Opener, stage: Stage, tmp_path: Path
) -> None:
    """The pruner waits for who is about to share the file, then finds it in use."""
    row = make_study(database, 3, **spec("maximize"))
    store = ArtifactStore(tmp_path.as_uri())
    worker, sharing = party(row), party(row)
    finished(worker, store, 1.0, content=b"model same")
    finished(worker, store, 2.0)
    _, trial = worker.begin()
    same = digest(b"model same")

    def share(connection: Any) -> None:
        path = kept_files.stored_already(connection, row.id, same)
        assert path is not None
        file = KeptFile(MODEL, path, same, 10)
        kept_files.record(connection, row.id, trial.id, 1, file)

    with stage.holding(sharing.database, share):
        later = stage.start(lambda: retention.prune(database, store, row, lambda: 1))
        stage.wait_until_blocked()
    later.result(120)
    assert weights(database, store, row) == ([1, 2], [b"model 1", b"model same"])


def test_two_workers_that_prune_at_once_leave_the_best_and_no_file_too_many(
    database: Database, party: Opener, stage: Stage, tmp_path: Path
) -> None:
    """The second waits for the first's rows, then removes what is released, whoever released it."""
    row = make_study(database, 4, **spec("minimize"))
    store = ArtifactStore(tmp_path.as_uri())
    worker, other = party(row), party(row)
    for value in (4.0, 3.0, 2.0, 1.0):
        finished(worker, store, value)

    def release(connection: Any) -> None:
        kept_files.release_beaten(connection, row.id, row.optuna_study_id, ["minimize"], 2)

    with stage.holding(other.database, release):
        later = stage.start(lambda: retention.prune(database, store, row, lambda: 2))
        stage.wait_until_blocked()
    later.result(120)
    assert weights(database, store, row) == ([2, 3], [b"model 2", b"model 3"])
