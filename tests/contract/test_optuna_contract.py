"""Optuna's published storage contract holds with the fence installed: every write proves a live lease."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase

from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.queue.fence import Fence
from storage.queue.shared_storage import SharedStorage
from tests.support.shared import Opener, Party, make_study


class OpenSharedStorage(SharedStorage):
    """`SharedStorage` without its rules about who may write what; what is left is fence and patience."""

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._write(lambda: int(self._inner.create_new_study(directions, study_name)))

    def delete_study(self, study_id: int) -> None:
        self._write(lambda: self._inner.delete_study(study_id))

    def _write(self, call: Any, trial_id: int | None = None) -> Any:
        return super()._write(call)


@pytest.fixture
def storage(kind: str, database: Database, party: Opener) -> Iterator[BaseStorage]:
    """Optuna's own storage or ours, behind a fence that holds the lease of a running ticket."""
    study = make_study(database, 1)
    holder: Party = party(study)
    lease = holder.claim().lease
    database.rdb.delete_study(study.optuna_study_id)  # the suite counts studies; the ticket stays
    fence = Fence(database)
    fence.lease = lease
    yield database.rdb if kind == "rdb" else OpenSharedStorage(database, fence)
    fence.lease = None


class TestFencedOptunaStorage(StorageTestCase):
    """Optuna's `RDBStorage` with our listeners on its sessions; the suite itself comes from Optuna."""

    @pytest.fixture
    def kind(self) -> str:
        return "rdb"


class TestSharedStorage(StorageTestCase):
    """What a runner's objective sees; on SQLite alone, since databases differ only below this storage."""

    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        made = f"sqlite:///{tmp_path_factory.mktemp('db') / 'hpo.db'}"
        open_database(made).close()
        return made

    @pytest.fixture
    def kind(self) -> str:
        return "shared"

    def test_pickle_storage(self, storage: BaseStorage) -> None:
        """A lease belongs to one process, so its storage cannot be sent to another."""
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            pickle.dumps(storage)
