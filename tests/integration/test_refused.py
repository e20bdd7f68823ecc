"""A server that answers and refuses is not waited for: the mistake is in the URL."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from storage.database.engine import Patience
from storage.database.errors import DatabaseUnreachableError
from tests.support.ports import free_port


def tries(url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a command connects before it gives up, whose patience ends with its second try."""
    count = 0
    engine = sa.create_engine(url, connect_args={"connect_timeout": 5})

    def connect() -> None:
        nonlocal count
        count += 1
        if count == 2:
            monkeypatch.setattr("storage.database.engine.IMPATIENT_SECONDS", 0.0)
        engine.connect().close()

    with pytest.raises(DatabaseUnreachableError):
        Patience()(make_url(url), connect)
    return count


@pytest.mark.parametrize(
    "wrong",
    [{"password": "nope"}, {"username": "nobody"}, {"database": "nowhere"}],
    ids=lambda one: str(*one),
)
def test_a_wrong_password_user_or_database_is_told_at_once(
    pg_url: str, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(pg_url).set(**wrong)
    assert tries(url.render_as_string(hide_password=False), monkeypatch) == 1


def test_a_server_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tries(f"postgresql://ada@127.0.0.1:{free_port()}/lab", monkeypatch) == 2


def test_a_worker_that_was_connected_waits_even_then(pg_url: str) -> None:
    """Somebody may be about to put the database back."""
    patience = Patience(endless=True)
    count = 0

    def connect() -> None:
        nonlocal count
        count += 1
        if count == 3:
            patience.give_up.set()
        sa.create_engine(make_url(pg_url).set(database="nowhere")).connect()

    with pytest.raises(DatabaseUnreachableError):
        patience(make_url(pg_url), connect)
    assert count == 3
