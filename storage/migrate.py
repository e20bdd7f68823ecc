"""Create and migrate the tables under a lock, so that N processes may start on an empty database at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy.engine import URL, Connection, Engine

from storage import engine as engines
from storage.clock import Clock
from storage.engine import Database, Patience
from storage.errors import DatabaseUnreachableError, NoTablesError, SchemaError, StorageError

VERSION_TABLE = "hpo_version"  # `alembic_version` is Optuna's
_LOCK_KEY = 0x68706F  # "hpo"; the advisory lock of PostgreSQL
_LOCK_SECONDS = 60.0


def open_database(url_text: str, *, create: bool = True, clock: Clock | None = None) -> Database:
    """Connect; create or migrate the tables first where that is due.

    Args:
        url_text: SQLAlchemy URL of SQLite file or PostgreSQL database.
        create: make an absent database's tables; False raises `NoTablesError` instead.
        clock: only tests pass one.

    Raises:
        BadStorageUrlError, DatabaseUnreachableError, SchemaError
    """
    url = engines.parse_url(url_text)
    patience = Patience()
    if patience(url, lambda: _is_current(url)):
        return Database(url, patience(url, lambda: engines.connect(url, create_tables=False)), clock)
    if not create:
        raise NoTablesError(
            f"there are no studies in {engines.redacted(url)} yet; `hpo run STUDY.yaml` starts one"
        )
    with _lock(url):
        upgrade(url)
        return Database(url, patience(url, lambda: engines.connect(url, create_tables=True)), clock)


def upgrade(url: URL) -> None:
    """Bring our tables to the newest version. The caller holds the lock."""
    with _plain_engine(url) as plain, plain.connect() as connection:
        if url.get_backend_name() == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins too late: not before a CREATE
        config = _config()
        config.attributes["connection"] = connection
        logging.getLogger("alembic").setLevel(logging.WARNING)
        command.upgrade(config, "head")
        connection.commit()


def head() -> str:
    """The newest version of our tables that this package knows."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current(connection: Connection) -> str | None:
    """The version of our tables in this database; None when there are none."""
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def _is_current(url: URL) -> bool:
    """Whether our and Optuna's tables are there and ours are of the newest version."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return False
    with _plain_engine(url) as plain:
        try:
            with plain.connect() as connection:
                revision = current(connection)
                optuna_there = sa.inspect(connection).has_table("alembic_version")
        except sa.exc.DatabaseError as error:
            if engines.is_unreachable(error):
                raise
            raise SchemaError(
                f"{engines.redacted(url)} is not a database hpo can use: {engines.reason(url, error)}"
            ) from error
    if revision is None:
        return False
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision not in known:
        raise SchemaError(
            f"{engines.redacted(url)} was made by a newer version of hpo (schema {revision}; "
            f"this one knows up to {head()}). Upgrade hpo on this machine"
        )
    return revision == head() and optuna_there


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _plain_engine(url: URL) -> Iterator[Engine]:
    plain = sa.create_engine(url, **engines.engine_options(url))
    try:
        yield plain
    finally:
        plain.dispose()


@contextmanager
def _lock(url: URL) -> Iterator[None]:
    """Hold the one migration lock of this database."""
    if url.get_backend_name() == "sqlite":
        try:
            with FileLock(f"{url.database}.lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise DatabaseUnreachableError(
                f"another process has been migrating {engines.redacted(url)} for {_LOCK_SECONDS:.0f} s"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot write beside {url.database}: {error.strerror}") from error
        return
    with (
        _plain_engine(url) as plain,
        plain.connect().execution_options(isolation_level="AUTOCOMMIT") as holder,
    ):
        holder.execute(sa.text(f"SET lock_timeout = '{_LOCK_SECONDS:.0f}s'"))
        holder.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        try:
            yield
        finally:
            holder.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
