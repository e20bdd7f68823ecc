"""What an error of the database means: away for now, tried again, unusable, or the trial's own doing."""

from __future__ import annotations

import sqlite3
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from storage.database.engine import Patience
from storage.database.errors import DatabaseFaultError
from storage.database.faults import is_fault, is_unreachable, reason, redacted, without_secrets

AWAY = {
    "08": ["08000", "08003", "08006", "08P01"],
    "53": ["53000", "53100", "53200", "53300"],
    "57": ["57000", "57014", "57P01", "57P02", "57P03"],
    "58": ["58000", "58030"],
    "read-only": ["25006"],
    "tried again": ["40001", "40P01", "55P03"],
}
FAULTS = ["42501", "42P01", "XX000", "XX001", "0A000"]
DATA = ["22021", "22P05", "23505", "54000"]


def raised(driver_error: Exception) -> sa.exc.DBAPIError:
    """As SQLAlchemy hands it on."""
    module: Any = psycopg if type(driver_error).__module__.startswith("psycopg") else sqlite3
    made = sa.exc.DBAPIError.instance("UPDATE", {}, driver_error, module.Error)
    assert isinstance(made, sa.exc.DBAPIError)
    return made


def of_state(sqlstate: str) -> sa.exc.DBAPIError:
    return raised(psycopg.errors.lookup(sqlstate)("the server says no"))


@pytest.mark.parametrize("sqlstate", [state for states in AWAY.values() for state in states])
def test_a_server_that_cannot_work_now_counts_as_away(sqlstate: str) -> None:
    assert is_unreachable(of_state(sqlstate))


@pytest.mark.parametrize("sqlstate", [*FAULTS, *DATA])
def test_what_does_not_pass_is_not_waited_for(sqlstate: str) -> None:
    assert not is_unreachable(of_state(sqlstate))
    assert is_fault(of_state(sqlstate)) == (sqlstate in FAULTS)


def test_what_optuna_makes_of_an_error_means_the_same() -> None:
    wrapped = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = of_state("25006")
    assert is_unreachable(wrapped)


@pytest.mark.parametrize(
    ("words", "away"),
    [
        ("database is locked", True),
        ("locking protocol", True),
        ("attempt to write a readonly database", True),
        ("disk I/O error", True),
        ("database or disk is full", True),
        ("unable to open database file", True),
        ("no such table: hpo_ticket", False),
    ],
)
def test_sqlite_says_the_same_in_words(words: str, away: bool) -> None:
    error = raised(sqlite3.OperationalError(words))
    assert (is_unreachable(error), is_fault(error)) == (away, not away)


def test_a_damaged_database_is_told_in_a_sentence() -> None:
    def damaged() -> None:
        raise raised(sqlite3.DatabaseError("database disk image is malformed"))

    with pytest.raises(DatabaseFaultError, match=r"hpo\.db cannot be used: .* malformed"):
        Patience(endless=True)(make_url("sqlite:///hpo.db"), damaged)


@pytest.mark.parametrize(
    "name", ["password", "sslpassword", "SSLPASSWORD", "oauth_client_secret", "auth_token"]
)
def test_no_secret_of_a_url_is_shown(name: str) -> None:
    """However often it is given; where the files of certificates lie is none."""
    url = make_url(f"postgresql://me:s3cr3t@h/d?{name}=s3cr3t&{name}=s3cr4t&sslkey=k.pem&passfile=p")
    failed = raised(psycopg.OperationalError("bad value s3cr3t or s3cr4t"))
    assert reason(url, failed) == "bad value *** or ***"
    shown = without_secrets(url).render_as_string(hide_password=False)
    assert shown == "postgresql://me@h/d?passfile=p&sslkey=k.pem"
    assert "s3cr" not in redacted(url) + shown
