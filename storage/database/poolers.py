"""PostgreSQL behind a pooler in transaction mode: the next transaction may be another session's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

# What a pooler takes no options for is set in each transaction.
_IN_EACH_TRANSACTION = "SET LOCAL idle_in_transaction_session_timeout = 10000; SET LOCAL timezone = 'UTC'"
_NO_OPTIONS = "unsupported startup parameter"  # pgbouncer's words
_pooled: set[str] = set()  # databases behind such a pooler, as far as this process has met them


def is_before(url: URL) -> bool:
    """Whether a pooler that takes no options is known to stand before this database."""
    return _place(url) in _pooled


def mind(engine: Engine, url: URL) -> None:
    """Have the engine find out: a pooler refuses what a server takes."""

    @event.listens_for(engine, "do_connect")
    def _on_connect(dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        if is_before(url):
            options.pop("options", None)
        try:
            return dialect.connect(*arguments, **options)
        except dialect.dbapi.OperationalError as error:
            if _NO_OPTIONS not in str(error) or options.pop("options", None) is None:
                raise
        connection = dialect.connect(*arguments, **options)
        _pooled.add(_place(url))
        return connection

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if is_before(url):
            connection.exec_driver_sql(_IN_EACH_TRANSACTION)


def _place(url: URL) -> str:
    return f"{url.host}:{url.port}/{url.database}"
