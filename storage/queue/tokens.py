"""Named tokens for the dashboard: what each may do. Only their digests are here, and a token that is revoked
is gone at once.

A token has 192 random bits, so that a plain SHA-256 of it tells nobody anything.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now, to_datetime
from storage.database.errors import LimitError
from storage.database.tables import study, token
from storage.queue.locks import change

LIMITS = ("trials", "epochs", "seconds")
PREFIX = "hpo_"  # of every token, so that whatever else is sent needs no look into the database


@dataclass(frozen=True)
class Grant:
    """What the holder of a named token may do."""

    name: str
    may: str  # view | act
    study: str | None  # the only study it is for, as that is called now; None: every one
    created: datetime | None  # UTC
    limits: Mapping[str, float]  # trials, epochs, seconds that it may give studies; absent: any number
    spent: Mapping[str, float]


def add(
    connection: Connection,
    name: str,
    may: str,
    study_id: int | None,
    limits: Mapping[str, float | None] | None = None,
) -> str | None:
    """A new token, which is told this once; None: another one has the name. It goes with its study."""
    if connection.scalar(sa.select(token.c.id).where(token.c.name == name)) is not None:
        return None
    made = PREFIX + secrets.token_urlsafe(24)
    new = {"name": name, "digest": digest_of(made), "may": may, "study_id": study_id}
    connection.execute(token.insert().values({**new, "created_at": database_now(), **(limits or {})}))
    return made


def all_tokens(connection: Connection) -> list[Grant]:
    """Every token that is good, oldest first."""
    return [_grant(row) for row in connection.execute(_GRANTS.order_by(token.c.id))]


def find(connection: Connection, digest: str) -> Grant | None:
    """What a token of this digest may do; None: there is none, or it was revoked."""
    row = connection.execute(_GRANTS.where(token.c.digest == digest)).first()
    return None if row is None else _grant(row)


def charge(connection: Connection, name: str | None, **asked: float | None) -> None:
    """Count what a token's holder gives a study: `trials`, `epochs`, `seconds`; None: without end.

    The row is held from here on, so that those who ask at once get no more together than it has.

    Raises:
        LimitError: it is more than the token has left, or has none of that name any more.
    """
    if name is None:
        return
    row = connection.execute(sa.select(token).where(token.c.name == name).with_for_update()).first()
    if row is None:
        raise LimitError("this token was revoked")
    spent = {}
    for what in LIMITS:
        limit, had, more = getattr(row, what), getattr(row, f"spent_{what}"), asked[what]
        if limit is not None and (more is None or had + more > limit):
            wanted = f"{what} without end" if more is None else f"{more:g} {what}"
            raise LimitError(
                f"token {name} may give studies {limit:g} {what} in all, has given {had:g}, and asks for "
                f"{wanted}: ask for less, and name a budget of {what}"
            )
        spent[f"spent_{what}"] = had + (more or 0.0)
    change(connection, token, row.id, **spent)


def revoke(connection: Connection, name: str) -> bool:
    """End a token and all that was opened with it; whether there was one."""
    return bool(connection.execute(token.delete().where(token.c.name == name)).rowcount)


def digest_of(made: str) -> str:
    """SHA-256 (hex) of a token."""
    return hashlib.sha256(made.encode("utf-8", "surrogateescape")).hexdigest()


_GRANTS = sa.select(token, study.c.name.label("study")).outerjoin(study, study.c.id == token.c.study_id)


def _grant(row: Any) -> Grant:
    limits = {what: getattr(row, what) for what in LIMITS if getattr(row, what) is not None}
    spent = {what: getattr(row, f"spent_{what}") for what in limits}
    return Grant(row.name, row.may, row.study, to_datetime(row.created_at), limits, spent)
