"""What an error of the database means: it is away, it refuses us, it is at fault; told without a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain

import sqlalchemy as sa
from sqlalchemy.engine import URL

from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError, StorageError
from storage.database.sqlite_lock import held_by
from storage.files.room import full_file_systems, is_full

_SECRET_OPTION = re.compile(r"pass(?!file)|secret|token")  # of a URL's query; a passfile is but a place
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
)
# "readonly": also a file system that was mounted anew for reading only
_SQLITE_AWAY = ("lock", "busy", "readonly", "unable to open", "disk i/o error", "disk is full")
# Classes of SQLSTATE that say that the server cannot work now: connection lost, resources used up,
# intervention of an operator, error of its system. 25006: after a failover the session ended up on a standby.
_SERVER_AWAY = ("08", "53", "57", "58")
_READ_ONLY = "25006"
# Rolled back for the sake of others (deadlock, serialization), or something is in use: tried again.
_AGAIN = ("40", "55")
# What a trial may bring about by what it writes: unusable data, a broken constraint, a value too large.
_FAULT_OF_DATA = ("22", "23", "54")


def is_away(sqlstate: str | None) -> bool:
    """Whether this SQLSTATE says that the server cannot work now."""
    return sqlstate is not None and (sqlstate[:2] in _SERVER_AWAY or sqlstate == _READ_ONLY)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, means that the database is away or busy for now."""
    for one in _causes(error):
        if isinstance(one, StorageError):  # any other of ours means that the database has answered
            return isinstance(one, DatabaseUnreachableError)
        if isinstance(one, sa.exc.DBAPIError):
            return _is_passing(one)
        if isinstance(one, sa.exc.TimeoutError):
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """It, and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_passing(error: sa.exc.DBAPIError) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or is_away(sqlstate):
        return True
    if sqlstate is not None:
        return str(sqlstate).startswith(_AGAIN)
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return False
    driver = type(error.orig).__module__.split(".")[0]
    return driver != "sqlite3" or any(word in str(error.orig).lower() for word in _SQLITE_AWAY)


def is_fault(error: BaseException | None) -> bool:
    """Whether the database is at fault, and that will not pass: damaged, or it lacks a table or a right."""
    for one in _causes(error):
        if isinstance(one, StorageError):
            return isinstance(one, DatabaseFaultError)
        if isinstance(one, sa.exc.DBAPIError):
            if _is_passing(one):
                return False
            sqlstate = getattr(one.orig, "sqlstate", None)
            if sqlstate is not None:
                return not str(sqlstate).startswith(_FAULT_OF_DATA)
            return type(one) in (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.DatabaseError)
    return False


def translated(url: URL, error: Exception) -> Exception:
    """The error of ours that says what is wrong with the database; any other error as it is."""
    if isinstance(error, StorageError):
        return error
    if is_unreachable(error):
        return unreachable(url, error)
    if is_fault(error):
        return DatabaseFaultError(f"{redacted(url)} cannot be used: {reason(url, error)}")
    return error


def is_refused(error: BaseException | None) -> bool:
    """Whether the server answered and lets nobody in so: wrong password, no such user or database.

    psycopg knows no SQLSTATE of a connection that failed, so its words are looked at; in a language that
    is not known here such an error is tried again like any other.
    """
    for one in _causes(error):
        if isinstance(one, sa.exc.OperationalError):
            state, text = getattr(one.orig, "sqlstate", None) or "", str(one.orig)
            return state.startswith("28") or state == "3D000" or any(word in text for word in _REFUSALS)
    return False


def unreachable(url: URL, error: BaseException) -> DatabaseUnreachableError:
    """The sentence for a database that does not answer, without the password."""
    return DatabaseUnreachableError(f"{redacted(url)} cannot be reached: {reason(url, error)}")


def redacted(url: URL) -> str:
    """The URL as it may be shown: no password, no query (which can carry one), a file's path whole."""
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
        url = url.set(database=os.path.abspath(url.database))  # noqa: PTH100 -- keeps symbolic links
    return url.set(query={}).render_as_string(hide_password=True)


def without_secrets(url: URL) -> URL:
    """The URL with everything but what must stay secret: a password, `sslpassword` and the like."""
    kept = url._replace(password=None)  # `URL.set` takes None for "leave it"
    return kept.difference_update_query(_secret_options(url))


def _secret_options(url: URL) -> list[str]:
    return [name for name in url.query if _SECRET_OPTION.search(name.lower())]


def reason(url: URL, error: BaseException) -> str:
    """First line of the driver's own message, without the password."""
    drivers = (one.orig for one in _causes(error) if isinstance(one, sa.exc.DBAPIError))
    text = str(next(drivers, error)).strip().splitlines()
    message = text[0] if text else type(error).__name__
    options = (url.normalized_query[name] for name in _secret_options(url))
    for secret in filter(None, [str(url.password or ""), *chain.from_iterable(options)]):
        message = message.replace(secret, "***")
    if is_full(message) and url.database is not None:
        return f"{message}. {full_file_systems([url.database])}"
    return message + (held_by(url) if message.endswith("is locked") else "")
