"""Named tokens: each with its rights, of a study or of all, and gone at once when revoked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from hpo.dashboard.app import routes
from hpo.dashboard.board import Board
from hpo.dashboard.guard import is_signed_in
from hpo.studies.reading import get_study
from storage.database.engine import Database
from storage.database.tables import token
from storage.queue import tokens
from tests.dashboard.conftest import BASE
from tests.dashboard.test_security import HTML, WRITING, everything, filled
from tests.support.command import look
from tests.support.shared import make_study

Maker = Callable[..., str]


@pytest.fixture
def new_token(database: Database) -> Maker:
    """`new_token(may, study)`, named ci."""

    def make(may: str, study: str | None = None) -> str:
        study_id = None if study is None else get_study(database, study).id
        made = database.write(lambda c: tokens.add(c, "ci", may, study_id))
        assert made is not None
        return made

    return make


def with_token(client: TestClient, token: str) -> TestClient:
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_a_view_token_sees_all_and_writes_nowhere(
    anyone: TestClient, database: Database, new_token: Maker
) -> None:
    with_token(anyone, new_token("view"))
    before = everything(database)
    assert anyone.get("/api/v1/studies").json()["total"] == 1
    assert anyone.get("/studies/digits", headers=HTML).status_code == 200
    for route in routes():
        for method in WRITING:
            if route.path != "/login":
                assert anyone.request(method, filled(route.path), json={}).status_code == 403
    assert everything(database) == before


def test_a_token_of_one_study_sees_and_steers_that_alone(
    anyone: TestClient, database: Database, new_token: Maker
) -> None:
    """Over every route: what is not below its study is refused, whatever that would have shown."""
    make_study(database, name="secret")
    with_token(anyone, new_token("act", "digits"))
    for route in routes():
        assert isinstance(route, Route)
        path = filled(route.path)
        public = path in ("/login", "/health") or path.startswith("/assets/")
        if "GET" in (route.methods or ()) and not public:
            code = anyone.get(path, headers={"Accept": "application/json"}).status_code
            own = path.removeprefix("/api/v1").startswith("/studies/digits")
            assert code in ((200, 400, 404) if own else (303, 403)), path
    assert anyone.get("/", headers=HTML).headers["location"] == "/studies/digits"
    for path in ("/api/v1/studies/secret", "/studies/secret", "/api/v1/studies/digits%2F..%2Fsecret"):
        assert anyone.get(path).status_code in (403, 404)
    assert anyone.get("/api/v1/compare?study=secret").status_code == 403
    assert anyone.post("/api/v1/studies/secret/actions/stop", json={}).status_code == 403
    assert anyone.post("/api/v1/studies/digits/actions/extend", json={"trials": 1}).status_code == 200


def test_events_tell_whose_token_it_was_and_a_page_shows_them(
    anyone: TestClient, database: Database, new_token: Maker
) -> None:
    with_token(anyone, new_token("act"))
    assert anyone.post("/api/v1/studies/digits/actions/extend", json={"trials": 1}).status_code == 200
    last = anyone.get("/api/v1/studies/digits/events").json()["events"][-1]
    assert (last["what"], last["who"], last["details"]) == (
        "extend",
        "token ci from testclient",
        {"trials": 1},
    )
    page = anyone.get("/studies/digits/events", headers=HTML)
    assert "token ci from testclient" in page.text
    assert anyone.get("/studies/nothing/events", headers=HTML).status_code == 404


def test_a_revoked_token_and_its_sessions_end_at_once(
    anyone: TestClient, board: Board, database: Database, new_token: Maker
) -> None:
    """A bearer, a browser that signed in with it, and an open stream of that browser."""
    token = new_token("act")
    entered = anyone.post("/login", data={"token": token, "next": "/workers"})
    assert entered.headers["location"] == "/workers"
    page = anyone.get("/studies/digits", headers=HTML)
    assert "may act" in page.text
    stream = _request(board, anyone)
    assert is_signed_in(stream)
    assert database.write(lambda connection: tokens.revoke(connection, "ci"))
    assert anyone.get("/workers", headers=HTML).headers["location"].startswith("/login")
    assert not is_signed_in(stream)
    assert with_token(anyone, token).get("/api/v1/workers").status_code == 401
    assert anyone.post("/login", data={"token": token}).headers["location"].startswith("/login?wrong=1")


def test_rights_that_were_taken_away_are_gone_from_sessions(
    anyone: TestClient, database: Database, new_token: Maker
) -> None:
    """They are looked up at each request: the cookie says who, not what."""
    anyone.post("/login", data={"token": new_token("act")})
    with database.transaction() as connection:
        connection.execute(token.update().values(may="view"))
    assert "looks only" in anyone.get("/studies/digits", headers=HTML).text


def test_only_digests_are_kept_and_a_token_goes_with_its_study(
    database: Database, new_token: Maker, tmp_path: Path
) -> None:
    make_study(database, name="brief")
    made = new_token("view", "brief")
    assert made not in repr(everything(database))
    where = ("--storage", str(database.url))
    told = look("token", "add", "other", "--may", "act", *where, cwd=tmp_path).check()
    assert told.out.startswith("hpo_")
    assert told.out.strip() not in repr(everything(database))
    assert look("token", "add", "other", "--may", "act", *where, cwd=tmp_path).code == 2
    assert look("token", "add", "a b", "--may", "act", *where, cwd=tmp_path).code == 2
    listed = look("token", "ls", "--format", "json", *where, cwd=tmp_path).json
    assert [(one["name"], one["may"], one["study"]) for one in listed] == [
        ("ci", "view", "brief"),
        ("other", "act", None),
    ]
    look("delete", "brief", "--yes", *where, cwd=tmp_path).check()
    assert [one.name for one in database.read(tokens.all_tokens)] == ["other"]
    look("token", "revoke", "other", *where, cwd=tmp_path).check()
    assert look("token", "revoke", "other", *where, cwd=tmp_path).code == 3
    events = json.loads(look("events", "brief", "--format", "json", *where, cwd=tmp_path).out)
    assert [one["what"] for one in events] == ["delete"]


def _request(board: Board, client: TestClient) -> object:
    """A request of this browser, as a stream holds it."""
    from starlette.applications import Starlette
    from starlette.requests import Request

    app = Starlette()
    app.state.board = board
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    headers = [(b"cookie", cookie.encode()), (b"host", BASE.encode())]
    return Request({"type": "http", "path": "/studies/digits", "headers": headers, "app": app})
