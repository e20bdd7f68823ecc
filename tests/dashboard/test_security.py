"""Each row of the safety list, and the walk over every route."""

from __future__ import annotations

import re

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from starlette.datastructures import URL
from starlette.routing import Route
from starlette.testclient import TestClient

from hpo.dashboard.access import MAX_CLIENTS, Access, Failures, Role, make_access
from hpo.dashboard.app import build_app, routes
from hpo.dashboard.board import Board
from hpo.errors import UserError
from storage.database.engine import Database
from storage.database.tables import metadata
from tests.dashboard.conftest import BASE, TOKEN, VIEW_TOKEN

WRITING = ("POST", "PUT", "PATCH", "DELETE")
HTML = {"Accept": "text/html"}


def filled(path: str) -> str:
    """A route's path with something real in every place."""
    values = {"study": "digits", "trial": "9", "attempt": "1", "file": "page.html", "action": "stop"}
    values |= {"chart": "history-1", "over": "trials", "rest": "studies"}
    return re.sub(r"{(\w+)(?::\w+)?}", lambda match: values[match[1]], path)


def everything(database: Database) -> list[object]:
    """Every row of every table of ours and of Optuna's, but heartbeats."""
    reflected = sa.MetaData()
    reflected.reflect(database.engine)
    with database.engine.connect() as connection:
        return [
            tuple(row) for table in reflected.sorted_tables for row in connection.execute(sa.select(table))
        ]


def all_routes() -> list[tuple[str, str]]:
    found = [(method, route.path) for route in routes() for method in sorted(route.methods or ())]
    assert len(found) > 40
    assert metadata.tables  # the walk below compares these
    return found


def test_nobody_writes_or_reads_without_a_token(anyone: TestClient, database: Database) -> None:
    """Over every route and every method: no answer but a refusal, the login page, health and assets."""
    before = everything(database)
    for route in routes():
        assert isinstance(route, Route)
        for method in ("GET", *WRITING):
            path = filled(route.path)
            answer = anyone.request(method, path, json={"trials": 1}, headers={"Accept": "application/json"})
            public = path in ("/login", "/health") or path.startswith("/assets/")
            if method == "GET" and public:
                assert answer.status_code in (200, 404), path
            elif path == "/login":
                assert answer.status_code in (303, 401)  # wrong token: back to the form
                assert "set-cookie" not in answer.headers
            else:
                assert answer.status_code == 401, (method, path)
                assert "digits" not in answer.text
    assert everything(database) == before


def test_the_view_token_writes_nowhere(viewer: TestClient, database: Database) -> None:
    before = everything(database)
    for _, path in all_routes():
        for method in WRITING:
            if path != "/login":
                assert viewer.request(method, filled(path), json={}).status_code == 403, (method, path)
    assert everything(database) == before


def test_optuna_dashboard_is_read_only_unless_the_token_allows_more(
    viewer: TestClient, database: Database
) -> None:
    assert viewer.get("/dashboard").status_code == 200
    listed = viewer.get("/api/studies").json()
    assert [study["study_name"] for study in listed["study_summaries"]] == ["digits"]
    number = listed["study_summaries"][0]["study_id"]
    assert viewer.delete(f"/api/studies/{number}").status_code == 403
    viewer.headers["Authorization"] = f"Bearer {TOKEN}"
    note = {"body": "seen", "version": 1}
    assert viewer.put(f"/api/studies/{number}/note", json=note).status_code == 204


def test_another_host_than_loopback_needs_a_token() -> None:
    with pytest.raises(UserError, match="needs a token"):
        make_access("0.0.0.0", 8080, None, None)
    assert make_access("127.0.0.1", 8080, None, None).token
    assert make_access("0.0.0.0", 8080, TOKEN, None).role_of(TOKEN) == "act"


def test_short_or_equal_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="at least 12"):
        Access("short")
    with pytest.raises(UserError, match="differ"):
        Access(TOKEN, TOKEN)


@pytest.mark.parametrize("wrong", ["", "x", TOKEN[:-1], TOKEN + "x", "ü" * 20, TOKEN.upper()])
def test_a_wrong_token_opens_nothing(wrong: str, anyone: TestClient) -> None:
    assert Access(TOKEN, VIEW_TOKEN).role_of(wrong) is None
    answer = anyone.post("/login", data={"token": wrong, "next": "/"})
    assert answer.headers["location"].startswith("/login?wrong=1")
    assert "set-cookie" not in answer.headers


def test_guessing_tokens_is_stopped(anyone: TestClient) -> None:
    codes = [anyone.post("/login", data={"token": f"guess {n}"}).status_code for n in range(12)]
    assert codes[:10] == [303] * 10
    assert codes[10:] == [429, 429]
    assert anyone.get("/", headers={"Authorization": "Bearer guess 13"}).status_code == 429


def test_wrong_tokens_lock_nobody_else_out(anyone: TestClient, board: Board) -> None:
    """They are counted for each address; and the right bearer is let in even from the guesser's."""
    other = TestClient(build_app(board), base_url=BASE, client=("10.1.2.3", 1), follow_redirects=False)
    for n in range(12):
        anyone.post("/login", data={"token": f"guess {n}"})
        anyone.get("/", headers={"Authorization": f"Bearer guess {n}"})
    assert anyone.get("/api/v1/workers", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert other.post("/login", data={"token": TOKEN}).status_code == 303
    assert other.get("/", headers=HTML).status_code == 200


def test_a_network_of_ipv6_is_one_client() -> None:
    failures = Failures()
    for n in range(10):
        failures.note(f"2001:db8:1:2::{n}")
        failures.note(f"2001:db8:1:{n}::1")
    assert failures.too_many("2001:db8:1:2:ffff::1")
    assert not failures.too_many("2001:db8:1:3::1")
    for n in range(30_000):
        failures.note(f"10.0.{n // 256}.{n % 256}")
    assert len(failures._of) == MAX_CLIENTS


def test_wrong_tokens_are_logged_but_not_what_was_sent(
    anyone: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(50):
        anyone.post("/login", data={"token": f"guess {n}"})
        anyone.get("/", headers={"Authorization": f"Bearer guess {n}"})
    told = [record.getMessage() for record in caplog.records if record.name == "hpo.dashboard.guard"]
    assert told[0] == "wrong token from testclient, the 1. within a minute"
    assert len(told) == 11, "who goes on all the same fills no log"
    assert "guess" not in caplog.text


def test_the_cookie_is_http_only_and_same_site(anyone: TestClient) -> None:
    answer = anyone.get("/workers", params={"token": TOKEN, "all": "1"}, headers=HTML)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert TOKEN not in cookie
    assert answer.headers["location"] == "/workers?all=1", "the token leaves the address at once"


def test_a_session_cannot_be_forged_or_outlive_its_time() -> None:
    access = Access(TOKEN, VIEW_TOKEN)
    cookie = access.open_session(access.role_of(VIEW_TOKEN))  # type: ignore[arg-type]
    assert access.session_of(cookie) is not None
    assert access.session_of(cookie.replace("view.", "act.", 1)) is None
    assert access.session_of(cookie[:-1] + ("0" if cookie[-1] != "0" else "1")) is None
    assert access.session_of("") is None
    assert Access("another token of length").session_of(cookie) is None
    assert access.session_of(cookie, now=4e9) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.1.2.3:8080"]
)
def test_other_host_names_are_refused(host: str, owner: TestClient) -> None:
    """A name somebody else's DNS points here (rebinding) gets nothing."""
    assert owner.get("/api/v1/studies", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:1", "[::1]:8080", "127.0.0.5"])
def test_loopback_names_are_fine(host: str, owner: TestClient) -> None:
    assert owner.get("/api/v1/studies", headers={"Host": host}).status_code == 200


MALFORMED = [
    "",
    "127.0.0.1/login?",
    "127.0.0.1/login?x=",
    "localhost/assets/#",
    "localhost\\assets",
    "127.0.0.1:8080/health",
    "127.0.0.1:80:80",
    "127.0.0.1:99999",
    "127.0.0.1:x",
    "user@127.0.0.1",
    "127.0.0.1, localhost",
    "local host",
    "[::1",
    "[::1]x",
    "[::1]:80/login",
    "%6cocalhost",
]


def test_a_malformed_host_is_refused_on_every_route(owner: TestClient) -> None:
    for host in MALFORMED:
        for path in ("/", "/api/v1/studies", "/studies/digits", "/login", "/health"):
            answer = owner.get(path, headers={"Host": host})
            assert answer.status_code == 400, (host, path)
            assert "digits" not in answer.text
    assert owner.get("/", headers=[("Host", "127.0.0.1"), ("Host", "localhost")]).status_code == 400


def test_no_host_opens_a_reading_route(anyone: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the library reads a path out of it (before 1.0.1), and it was not refused before."""
    monkeypatch.setattr("hpo.dashboard.guard.host_name", lambda _: "localhost")
    monkeypatch.setattr(
        "starlette.requests.HTTPConnection.url",
        property(lambda self: URL(f"http://{self.headers['host']}{self.scope['path']}")),
    )
    for route in routes():
        path = filled(route.path)
        if "GET" in (route.methods or ()) and path not in ("/login", "/health") and "/assets/" not in path:
            for host in ("127.0.0.1/login?", "localhost/assets/#", "127.0.0.1:8080/health?"):
                answer = anyone.get(path, headers={"Host": host, "Accept": "application/json"})
                assert answer.status_code == 401, (host, path)


def csrf_of(browser: TestClient) -> str:
    found = re.search(r'<meta name="csrf" content="(\w+)">', browser.get("/", headers=HTML).text)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("action", "form", "said"),
    [("pause", {}, "digits is paused"), ("retry", {"trial": "3"}, "digits/3 waits again")],
)
def test_a_form_needs_its_csrf_token(
    action: str, form: dict[str, str], said: str, browser_of_owner: TestClient
) -> None:
    url = f"/studies/digits/actions/{action}"
    assert browser_of_owner.post(url, data=form).status_code == 403
    assert browser_of_owner.post(url, data={**form, "csrf": "0" * 64}).status_code == 403
    assert browser_of_owner.post("/api/v1" + url, json=form).status_code == 403
    right = {**form, "csrf": csrf_of(browser_of_owner)}
    assert said in browser_of_owner.post(url, data=right, headers=HTML).text


@pytest.mark.parametrize(
    ("action", "asked", "done"),
    [
        ("retry", "Run the failed trial again?", "1 failed trial waits again"),
        ("stop", "then end the study?", "digits is stopping"),
        ("cancel", "End the study now?", "digits is cancelled"),
    ],
)
def test_without_javascript_too_what_cannot_be_undone_is_asked_first(
    action: str, asked: str, done: str, browser_of_owner: TestClient, database: Database
) -> None:
    """The first form changes nothing and leads to a question; the question's form does it."""
    before = everything(database)
    url = f"/studies/digits/actions/{action}"
    page = browser_of_owner.post(url, data={"csrf": csrf_of(browser_of_owner)}, headers=HTML)
    assert asked in page.text
    assert everything(database) == before
    yes = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', page.text))
    assert done in browser_of_owner.post(url, data=yes, headers=HTML).text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_write_from_another_origin_is_refused(
    headers: dict[str, str], browser_of_owner: TestClient, database: Database
) -> None:
    before = everything(database)
    data = {"csrf": csrf_of(browser_of_owner)}
    answer = browser_of_owner.post("/studies/digits/actions/stop", data=data, headers=headers)
    assert answer.status_code == 403
    assert browser_of_owner.delete("/api/studies/1", headers=headers).status_code == 403
    assert everything(database) == before


def test_optuna_dashboard_cannot_be_written_to_by_a_form_of_another_site(
    browser_of_owner: TestClient, database: Database
) -> None:
    """Its requests carry no CSRF token, so they must prove where they come from."""
    before = everything(database)
    note = {"body": "seen", "version": 1}
    assert browser_of_owner.put("/api/studies/1/note", json=note).status_code == 403
    assert everything(database) == before
    answer = browser_of_owner.put("/api/studies/1/note", json=note, headers={"Origin": BASE})
    assert answer.status_code == 204


def its_own_routes() -> list[tuple[str, str]]:
    """Method and path of every route of optuna-dashboard that may change something."""
    made = optuna_dashboard.wsgi(optuna.storages.InMemoryStorage())
    found = [(route.method, re.sub(r"<[^>]*>", "1", route.rule)) for route in made.routes]
    return [(method, path) for method, path in found if method not in ("GET", "HEAD")]


def test_optuna_dashboard_writes_notes_and_nothing_else(owner: TestClient, database: Database) -> None:
    """Its own delete, rename, create and tell go past leases and tickets, and destroy studies."""
    its = its_own_routes()
    assert {"/api/studies/1/rename", "/api/trials/1/tell", "/api/studies"} <= {path for _, path in its}
    before = everything(database)
    odd = [
        ("DELETE", "/api/studies/1/"),
        ("PUT", "/api/studies/1/note/../../1/rename"),
        ("POST", "/api//studies"),
    ]
    odd += [("DELETE", "/api/studies/1/note"), ("PUT", "/api/studies/1/note%0A"), ("PUT", "/api/studies/1")]
    for method, path in [*its, *odd]:
        if method == "PUT" and path in ("/api/studies/1/note", "/api/studies/1/1/note"):
            continue
        answer = owner.request(method, path, json={"study_name": "x", "state": "Fail"})
        assert answer.status_code in (403, 404, 405), (method, path)
    assert everything(database) == before
    refused = owner.delete("/api/studies/1")
    assert refused.status_code == 403
    assert "the commands of hpo" in refused.json()["reason"]


def test_login_leads_nowhere_else(anyone: TestClient) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = anyone.post("/login", data={"token": TOKEN, "next": target})
        assert answer.headers["location"] == "/"
    answer = anyone.post("/login", data={"token": TOKEN, "next": "/studies/digits?sort=value"})
    assert answer.headers["location"] == "/studies/digits?sort=value"


def test_a_browser_without_a_session_is_asked_for_the_token(anyone: TestClient) -> None:
    answer = anyone.get("/studies/digits", headers=HTML)
    assert answer.headers["location"] == "/login?next=%2Fstudies%2Fdigits"
    assert "Token" in anyone.get("/login").text


def test_signing_out_ends_the_session(browser_of_owner: TestClient, board: Board) -> None:
    """Everywhere: a copy of the cookie opens nothing either; another browser's session goes on."""
    copy = dict(browser_of_owner.cookies)
    another = board.access.open_session(Role.ACT)
    data = {"csrf": csrf_of(browser_of_owner)}
    assert browser_of_owner.post("/logout", data=data).status_code == 303
    assert browser_of_owner.get("/", headers=HTML).status_code == 303
    browser_of_owner.cookies.update(copy)
    assert browser_of_owner.get("/", headers=HTML).status_code == 303
    assert browser_of_owner.get("/api/v1/workers").status_code == 401
    assert board.access.session_of(another) is not None
