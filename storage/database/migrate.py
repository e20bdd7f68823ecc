"""Create and migrate the tables under a lock, so that N processes may start on an empty database at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from storage.database import engine as engines
from storage.database import faults, optuna_tables
from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError, NoTablesError, SchemaError, StorageError
from storage.database.records import WorkerState
from storage.database.tables import declare_partial_indexes, metadata, worker

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

HEAD = "0012"  # the newest of `migrations/versions`, so that only who migrates must read the scripts
VERSION_TABLE = "hpo_version"  # `alembic_version` is Optuna's
_LOCK_KEY = 0x68706F  # "hpo"; the advisory lock of PostgreSQL
_LOCK_SECONDS = 60.0


def open_database(url_text: str, *, create: bool = True) -> Database:
    """Connect; create or migrate the tables first where that is due.

    Args:
        url_text: SQLAlchemy URL of SQLite file or PostgreSQL database.
        create: make an absent database's tables and migrate an older one's; False raises
            `NoTablesError` or `SchemaError` instead.

    Raises:
        BadStorageUrlError, DatabaseUnreachableError, SchemaError
    """
    url = engines.parse_url(url_text)
    database = Database(url)
    try:
        revision = database.patience(url, lambda: _revision(database))
        if revision != HEAD:
            _demand_creation(database, revision, create=create)
            with _lock(url):
                if not database.patience(url, lambda: _made(url)):
                    database.patience(url, lambda: upgrade(url))
                    _check_optunas(database, create=True)
    except BaseException:
        database.close()
        raise
    return database


def _demand_creation(database: Database, revision: str | None, *, create: bool) -> None:
    if create:
        return
    if revision is None:
        raise NoTablesError(
            f"there are no studies in {database.shown_url} yet; `hpo run STUDY.yaml` starts one"
        )
    raise SchemaError(
        f"{database.shown_url} was made by an older version of hpo (schema {revision}; this one needs "
        f"{HEAD}). `hpo db upgrade` brings it up to date, and sends workers of the older version away"
    )


def _made(url: URL) -> bool:
    """Make all tables where there are none: as the scripts would, ours and Optuna's, in a tenth of the time.

    Returns whether it has. The caller holds the lock.
    """
    with _writing(url) as connection:
        if sa.inspect(connection).get_table_names() or not optuna_tables.are_newest():
            return False
        declare_partial_indexes(connection.dialect.name)
        metadata.create_all(connection)
        optuna_tables.make(connection)
        for name, version in ((VERSION_TABLE, HEAD), (optuna_tables.VERSION_TABLE, optuna_tables.VERSION)):
            key = sa.PrimaryKeyConstraint("version_num", name=f"{name}_pkc")
            table = sa.Table(
                name, sa.MetaData(), sa.Column("version_num", sa.String(32), nullable=False), key
            )
            table.create(connection)
            connection.execute(table.insert().values(version_num=version))
        connection.commit()
    return True


def upgrade(url: URL) -> None:
    """Bring our tables to the newest version. The caller holds the lock."""
    from alembic import command

    with _writing(url) as connection:
        config = _config()
        config.attributes["connection"] = connection
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if _version(connection, VERSION_TABLE) not in (None, HEAD):
            if url.get_backend_name() == "postgresql":
                # Before any row: who is at work holds tickets, which we need, and waits for its worker's row.
                tables = "hpo_study, hpo_ticket, hpo_attempt, hpo_worker"
                connection.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            _send_older_workers_away(connection)
        command.upgrade(config, "head")
        connection.commit()


def _send_older_workers_away(connection: Connection) -> None:
    """Workers that are at work know the tables as they were.

    Every version asks for its worker's state at each claim and heartbeat: they finish what they run, say
    this and leave. Those that start later are refused.
    """
    connection.execute(
        worker.update()
        .where(worker.c.state == WorkerState.ACTIVE)
        .values(
            state=WorkerState.QUARANTINED,
            reason="its version of hpo is older than the database, which was upgraded; upgrade hpo on this "
            "machine and start the worker again",
        )
    )


def _revision(database: Database) -> str | None:
    """The version of our tables; None when they, or Optuna's, are not there.

    Raises:
        SchemaError: a table is of a version that this package cannot use; or it is no such database.
    """
    url = database.url
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return None
    try:
        with database.transaction(write=False) as connection:
            ours = _version(connection, VERSION_TABLE)
            optunas = _version(connection, optuna_tables.VERSION_TABLE)
    except sa.exc.DatabaseError as error:
        if faults.is_unreachable(error):
            raise
        raise SchemaError(
            f"{faults.redacted(url)} is not a database hpo can use: {faults.reason(url, error)}"
        ) from error
    if ours not in (None, HEAD) and ours not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaError(
            f"{faults.redacted(url)} was made by a newer version of hpo (schema {ours}; "
            f"this one knows up to {HEAD}). Upgrade hpo on this machine"
        )
    if ours is None or optunas is None:
        return None
    if optunas != optuna_tables.VERSION:
        _check_optunas(database, create=False)  # it may know more versions than we do
    return ours


def _check_optunas(database: Database, *, create: bool) -> None:
    from storage.database.rdb import check_tables

    database.patience(database.url, lambda: check_tables(database.url, create=create))


def _version(connection: Connection, table: str) -> str | None:
    """What an alembic version table says; None when there is none, or nothing in it."""
    if not sa.inspect(connection).has_table(table):
        return None
    return connection.scalar(sa.select(sa.column("version_num")).select_from(sa.table(table)))


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _writing(url: URL) -> Iterator[Connection]:
    """A connection whose transaction may write; who has it commits."""
    with _plain_engine(url) as plain, plain.connect() as connection:
        if url.get_backend_name() == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins too late: not before a CREATE
        yield connection


@contextmanager
def _plain_engine(url: URL) -> Iterator[Engine]:
    plain = sa.create_engine(url, **engines.engine_options(url, idle_seconds=60))
    try:
        yield plain
    finally:
        plain.dispose()


@contextmanager
def _lock(url: URL) -> Iterator[None]:
    """Hold the one migration lock of this database."""
    if url.get_backend_name() == "sqlite":
        from filelock import FileLock, Timeout

        try:
            Path(f"{url.database}.lock").touch()  # where that is not allowed FileLock waits in vain
            with FileLock(f"{url.database}.lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise DatabaseUnreachableError(
                f"another process has been migrating {faults.redacted(url)} for {_LOCK_SECONDS:.0f} s"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot write beside {url.database}: {error.strerror}") from error
        return
    with _plain_engine(url) as plain, plain.connect() as holder:
        # Held by an open transaction: behind a pooler a session is not ours for longer than that. Who waits
        # keeps none open, or all sessions would wait and none be left to migrate.
        until = time.monotonic() + _LOCK_SECONDS
        while not _taken(holder):
            holder.rollback()
            if time.monotonic() >= until:
                raise DatabaseUnreachableError(
                    f"another process has been migrating {faults.redacted(url)} for {_LOCK_SECONDS:.0f} s"
                )
            time.sleep(random.uniform(0.05, 0.2))
        yield
        holder.rollback()


def _taken(holder: Connection) -> bool:
    """Whether the lock is this transaction's now."""
    holder.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    return bool(holder.scalar(sa.text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}))
