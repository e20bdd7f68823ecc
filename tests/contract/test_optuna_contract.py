"""Optuna's published storage contract holds for its storage on our engine."""

from __future__ import annotations

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from storage.database.engine import Database


class TestEngineStorage(StorageTestCase):
    """What notebooks and samplers of others read and write; the suite itself comes from Optuna."""

    @pytest.fixture
    def storage(self, database: Database) -> BaseStorage:
        return database.rdb
