"""One SQLAlchemy engine per process, shared with Optuna's storage; transactions, errors, patience."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from storage.database import faults, poolers
from storage.database.errors import BadStorageUrlError, DatabaseUnreachableError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

log = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
Transaction = Connection  # what a verb of the storage works in; `hpo` knows no SQLAlchemy
DatabaseUrl = URL

IMPATIENT_SECONDS = 5.0  # how long a command waits for a database before it says so
IDLE_SECONDS = 10  # in which PostgreSQL bears a transaction whose client does nothing

_POSTGRESQL_CONNECT_ARGS: dict[str, Any] = {
    # Without these a cut network hangs a worker for over a minute, and a cut holder of a lock blocks all.
    "connect_timeout": 5,  # seconds
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "application_name": "hpo",
    "prepare_threshold": None,  # behind a pooler the next session knows no prepared statement
}


def parse_url(text: str) -> URL:
    """The storage URL, checked: SQLite file or PostgreSQL, driver installed.

    Raises:
        BadStorageUrlError: with what is wrong and an example; never with the password.
    """
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise BadStorageUrlError(
                f"the storage URL names {backend}; hpo shares studies on SQLite and PostgreSQL: write "
                "sqlite:///file.db or postgresql://user:password@host/database"
            )
        url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise BadStorageUrlError(
            f"the storage URL needs a database driver that is not installed: {error.name}. "
            "SQLite and PostgreSQL (psycopg 3) work out of the box"
        ) from error
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
        raise BadStorageUrlError(
            "the storage URL cannot be read. Write sqlite:///file.db or postgresql://user:password@host/database"
        ) from error
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise BadStorageUrlError("an in-memory SQLite database cannot be shared; write sqlite:///file.db")
    if backend == "sqlite" and not Path(str(url.database)).absolute().parent.is_dir():
        raise BadStorageUrlError(f"the directory of the SQLite file does not exist: {url.database}")
    return url


def engine_options(url: URL, idle_seconds: int | None = None) -> dict[str, Any]:
    """Keyword arguments of `create_engine` for this database.

    A transaction whose client does nothing for `idle_seconds`, by default `IDLE_SECONDS`, is ended by
    PostgreSQL, for the sake of others.
    """
    if url.get_backend_name() == "postgresql":
        chosen = dict(_POSTGRESQL_CONNECT_ARGS)
        if not poolers.is_before(url):
            idle = 1000 * (idle_seconds or IDLE_SECONDS)
            chosen["options"] = f"-c idle_in_transaction_session_timeout={idle} -c timezone=UTC"
        return {"pool_pre_ping": True, "connect_args": chosen, "pool_recycle": 1800}
    return {"connect_args": {"timeout": 4.0}}  # seconds for another writer; well below a lease


def make_engine(url: URL) -> Engine:
    """The engine of this process: it leaves a server that can do no work, and gives SQLite real transactions.

    That is BEGIN IMMEDIATE for writers, so that they never meet half-way.
    """
    engine = sa.create_engine(url, **engine_options(url))
    if engine.dialect.name != "sqlite":
        event.listen(engine, "handle_error", _leave_server)
        poolers.mind(engine, url)
        return engine

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _leave_server(context: ExceptionContext) -> None:
    """What means "away" empties the pool: after a failover its connections lead to the old server."""
    if faults.is_away(getattr(context.original_exception, "sqlstate", None)):
        context.is_disconnect = True


@dataclass
class Patience:
    """How long to go on when the database is away.

    A command waits `IMPATIENT_SECONDS`, not at all when the server refuses it, and tries once more where that
    has ended its session; a worker that has connected once outlives the database, until `give_up` is set.
    """

    endless: bool = False
    give_up: threading.Event = field(default_factory=threading.Event)

    def __call__(self, url: URL, call: Callable[[], T]) -> T:
        """Result of `call()`, tried again while the database is away; so `call` must be idempotent.

        Raises:
            DatabaseUnreachableError: patience is over.
            DatabaseFaultError: the database cannot be used, and waiting does not help.
        """
        retrying = Retrying(
            retry=retry_if_exception(
                lambda error: faults.is_unreachable(error) and (self.endless or not faults.is_refused(error))
            ),
            stop=stop_when_event_set(self.give_up) if self.endless else _is_over,
            wait=wait_random_exponential(multiplier=0.1, max=3.0),
            sleep=sleep_using_event(self.give_up),
            reraise=True,
            before_sleep=lambda state: log.log(
                logging.WARNING if self.endless else logging.DEBUG,
                "database away (try %d): %s",
                state.attempt_number,
                faults.reason(url, state.outcome.exception() or RuntimeError()) if state.outcome else "",
            ),
        )
        with _translated(url):
            return retrying(call)


def _is_over(state: RetryCallState) -> bool:
    was_cut = getattr(state.outcome and state.outcome.exception(), "connection_invalidated", False)
    again = was_cut and state.attempt_number == 1
    return not again and (state.seconds_since_start or 0.0) >= IMPATIENT_SECONDS


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Inside, what the driver raises becomes one of our errors."""
    try:
        yield
    except Exception as error:
        known = faults.translated(url, error)
        if known is error:
            raise
        raise known from error


class Database:
    """The shared database of one process: an engine, and Optuna's storage on the same engine."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine = make_engine(url)
        self.patience = Patience()
        self.who: str | None = None  # on whose behalf studies are steered; None: who runs this process
        self.token: str | None = None  # whose limits hold for what studies are given; None: nobody's

    def acting_as(self, who: str, token: str | None = None) -> Database:
        """The same database, on somebody's behalf, who holds the `token` of that name."""
        made = copy.copy(self)
        made.who, made.token = who, token
        return made

    @cached_property
    def rdb(self) -> RDBStorage:
        """Optuna's storage, made when somebody asks for it: what only looks or steers needs none."""
        from storage.database.rdb import EngineStorage

        return EngineStorage(self.url, self.engine)

    @property
    def shown_url(self) -> str:
        """The URL as it may be shown."""
        return faults.redacted(self.url)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on any exception."""
        with self.engine.connect() as connection:
            if write:
                connection.execution_options(writes=True)
            elif connection.dialect.name == "postgresql":  # several statements must see one state
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def write(self, verb: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`verb` in a transaction of its own, again when the database went away; it must be idempotent."""
        return self.patience(self.url, lambda: self._in_one(lambda c: verb(c, *args, **options), write=True))

    def write_once(
        self, verb: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """`verb` in a transaction of its own, for verbs that must not happen twice ("ten more trials").

        Again when the database went away before it committed. When the answer to COMMIT was lost,
        PostgreSQL tells afterwards what became of the transaction; SQLite answers in this process.

        Raises:
            DatabaseUnreachableError: patience is over.
        """
        tried: list[tuple[int, T]] = []

        def once() -> T:
            with self.transaction() as connection:
                if connection.dialect.name != "postgresql":
                    return verb(connection, *args, **options)
                if tried:
                    number, result = tried[-1]
                    became = connection.scalar(sa.select(sa.func.txid_status(number)))
                    if became == "committed":
                        return result
                    if became == "in progress":
                        raise DatabaseUnreachableError("the transaction has not ended yet")
                number = connection.scalar(sa.select(sa.func.txid_current())) or 0
                tried.append((number, verb(connection, *args, **options)))
                return tried[-1][1]

        return self.patience(self.url, once)

    def read(self, verb: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`verb` in a read transaction."""
        return self.patience(self.url, lambda: self._in_one(lambda c: verb(c, *args, **options), write=False))

    def once(self, verb: Callable[[Connection], T], *, write: bool = False) -> T:
        """`verb` in a transaction, tried a single time: for loops that must not wait.

        Raises:
            DatabaseUnreachableError: the database is away now.
            DatabaseFaultError: it cannot be used.
        """
        with _translated(self.url):
            return self._in_one(verb, write=write)

    def _in_one(self, verb: Callable[[Connection], T], *, write: bool) -> T:
        with self.transaction(write=write) as connection:
            return verb(connection)

    def close(self) -> None:
        """Close every pooled connection."""
        if "rdb" in vars(self):
            self.rdb.remove_session()
        self.engine.dispose()
