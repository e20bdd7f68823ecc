"""Whether anybody has written to the database: for a process that waits for work."""

from __future__ import annotations

import contextlib
import sqlite3

from storage.database.engine import Database


class Changes:
    """SQLite counts the commits of others for whoever asks: that takes no lock and no transaction.

    PostgreSQL has nothing as cheap that works behind every pooler, so there the answer is always no, and who
    waits looks again after a while.
    """

    def __init__(self, database: Database) -> None:
        is_sqlite = database.url.get_backend_name() == "sqlite"
        self._file = str(database.url.database) if is_sqlite else None
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None

    def seen(self) -> bool:
        """Whether somebody, this process included, has committed since this was last asked."""
        if self._file is None:
            return False
        with contextlib.suppress(sqlite3.Error):
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, timeout=0)
            before = self._version
            self._version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            return before != self._version
        self.close()
        return False

    def close(self) -> None:
        """Look no more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
