"""Named tokens for the dashboard: what each may do. Only their digests are here, and a token that is revoked
is gone at once.

A token has 192 random bits, so that a plain SHA-256 of it tells nobody anything.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import Clock, to_datetime
from storage.database.tables import study, token

PREFIX = "hpo_"  # of every token, so that whatever else is sent needs no look into the database


@dataclass(frozen=True)
class Grant:
    """What the holder of a named token may do."""

    name: str
    may: str  # view | act
    study: str | None  # the only study it is for, as that is called now; None: every one
    created: datetime | None  # UTC


def add(connection: Connection, clock: Clock, name: str, may: str, study_id: int | None) -> str | None:
    """A new token, which is told this once; None: another one has the name. It goes with its study."""
    if connection.scalar(sa.select(token.c.id).where(token.c.name == name)) is not None:
        return None
    made = PREFIX + secrets.token_urlsafe(24)
    connection.execute(
        token.insert().values(
            name=name, digest=digest_of(made), may=may, study_id=study_id, created_at=clock.now()
        )
    )
    return made


def all_tokens(connection: Connection) -> list[Grant]:
    """Every token that is good, oldest first."""
    return [_grant(row) for row in connection.execute(_GRANTS.order_by(token.c.id))]


def find(connection: Connection, digest: str) -> Grant | None:
    """What a token of this digest may do; None: there is none, or it was revoked."""
    row = connection.execute(_GRANTS.where(token.c.digest == digest)).first()
    return None if row is None else _grant(row)


def revoke(connection: Connection, name: str) -> bool:
    """End a token and all that was opened with it; whether there was one."""
    return bool(connection.execute(token.delete().where(token.c.name == name)).rowcount)


def digest_of(made: str) -> str:
    """SHA-256 (hex) of a token."""
    return hashlib.sha256(made.encode("utf-8", "surrogateescape")).hexdigest()


_GRANTS = sa.select(token.c.name, token.c.may, token.c.created_at, study.c.name.label("study")).outerjoin(
    study, study.c.id == token.c.study_id
)


def _grant(row: Any) -> Grant:
    return Grant(row.name, row.may, row.study, to_datetime(row.created_at))
