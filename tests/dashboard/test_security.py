"""Each row of the safety list, and the walk over every route."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from starlette.datastructures import URL
from starlette.routing import Route
from starlette.testclient import TestClient

from hpo.dashboard.access import Access, make_access
from hpo.dashboard.app import routes
from hpo.dashboard.board import Board
from hpo.errors import UserError
from storage.database.engine import Database
from storage.database.tables import metadata
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.queue import studies
from storage.queue.studies import NewStudy
from tests.dashboard.conftest import BASE, TOKEN, VIEW_TOKEN
from tests.dashboard.seeded import HOSTILE, make_spec

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
        ("retry", "Run the failed trial again?", "1 failed trials wait again"),
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


def test_scripts_run_from_our_own_files_only(owner: TestClient) -> None:
    for path in ("/", "/studies/digits", "/studies/digits/trials/9", "/workers", "/login", "/nothing"):
        answer = owner.get(path, headers=HTML)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        markup = re.sub("&lt;.*?&gt;", "", answer.text)  # what users wrote, escaped
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", markup), path
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
        assert all(address[0] in "/?#" and address[:2] != "//" for address in addresses), addresses
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"


def test_text_from_users_is_shown_literally(owner: TestClient, database: Database, tmp_path: Path) -> None:
    """Study names, errors, classes, logs: none of it is ever markup."""
    name = "<script>alert(1)<\\script>"
    spec = make_spec("plain").model_dump(mode="json")
    studies.create(
        database,
        NewStudy(name, ["maximize"], spec, "0" * 64, 0, [None], False, 0, 1, None, None, 3, 0, str(tmp_path)),
    )
    texts = [owner.get(path, headers=HTML).text for path in ("/", "/compare", "/studies/digits/trials/3")]
    texts += [owner.get("/studies/%3Cscript%3Ealert(1)%3C%5Cscript%3E", headers=HTML).text]
    texts += [owner.get("/studies/digits/trials/9", headers=HTML).text, owner.get(f"/?q={name}").text]
    texts += [owner.get(f"/studies/{HOSTILE}", headers=HTML).text]
    for text in texts:
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)" in texts[0]
    assert "&lt;img src=x onerror" in texts[2]


@pytest.mark.parametrize(
    "file", ["..%2F..%2Fhpo.db", "%2Fetc%2Fpasswd", "..%5C..%5Chpo.db", "log.txt", "page.html%00", "%2E%2E"]
)
def test_only_files_kept_with_a_trial_can_be_had(file: str, owner: TestClient) -> None:
    answer = owner.get(f"/studies/digits/trials/9/files/{file}")
    assert answer.status_code == 404
    assert "SQLite" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("place", ["10/1/log.txt", "10/1", "10"])
def test_a_log_that_leads_elsewhere_is_not_shown(
    place: str, owner: TestClient, board: Board, tmp_path: Path
) -> None:
    """Trial 10 puts a link in the place of its log, or of a folder above it: to a token, say."""
    row = board.row("digits")
    (tmp_path / "10" / "1").mkdir(parents=True)
    (tmp_path / "10" / "1" / "log.txt").write_text("a secret of who looks")
    planted = ArtifactStore(row.artifacts).local_root / checkpoints.study_key(row.uid, row.name) / place
    made = [folder for folder in reversed(planted.parents) if not folder.exists()]
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(tmp_path / place)
    try:
        assert owner.get("/studies/digits/trials/10/log/1").status_code == 404
        for path in ("/studies/digits/trials/10", "/api/v1/studies/digits/trials/10/log?attempt=1"):
            assert "a secret" not in owner.get(path, headers=HTML).text
    finally:  # the files are shared by every test of this directory
        planted.unlink()
        for folder in reversed(made):
            folder.rmdir()


@pytest.mark.parametrize(
    "file", ["../app.py", "..%2Fapp.py", "%2Fetc%2Fpasswd", "vendor/../../app.py", "vendor"]
)
def test_only_our_own_assets_are_served(file: str, anyone: TestClient) -> None:
    assert anyone.get(f"/assets/{file}").status_code in (401, 404)


def test_downloads_are_attachments(owner: TestClient) -> None:
    answer = owner.get("/studies/digits/trials/9/files/page.html")
    assert answer.status_code == 200
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    log = owner.get("/studies/digits/trials/9/log/1")
    assert log.headers["content-disposition"].startswith("attachment;")


def test_no_traceback_or_sql_in_an_answer(
    owner: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("SELECT secret FROM somewhere")

    monkeypatch.setattr("hpo.dashboard.pages.every_worker", broken)
    with caplog.at_level(logging.ERROR):
        answer = owner.get("/workers", headers=HTML)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "SELECT secret" in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/?sort=evil",
        "/?page=0",
        "/?page=99999999999999999999",
        "/?page=-1",
        "/?state=x",
        "/studies/digits?sort=param:'",
        "/studies/digits?sort=1;DROP",
        "/studies/digits?page=two",
        "/studies/digits/trials/99999",
        "/studies/nix",
        "/api/v1/studies?size=100000",
        "/api/v1/studies/digits/charts/history-9",
        "/api/v1/studies/digits/charts/evil",
        "/api/v1/studies/digits/charts/learning?metric=%27%3B",
        "/compare?study=nix",
        "/compare?" + "&".join(f"study={n}" for n in range(20)),
    ],
)
def test_nonsense_in_an_address_is_answered_politely(path: str, owner: TestClient) -> None:
    answer = owner.get(path, headers=HTML)
    assert answer.status_code in (200, 400, 404), answer.text
    assert "Traceback" not in answer.text
    assert "sqlalchemy" not in answer.text


def test_long_bodies_are_refused(owner: TestClient) -> None:
    answer = owner.post("/api/v1/studies/digits/actions/enqueue", content=b"x" * 300_000)
    assert answer.status_code == 413


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


def test_signing_out_ends_the_session(browser_of_owner: TestClient) -> None:
    data = {"csrf": csrf_of(browser_of_owner)}
    assert browser_of_owner.post("/logout", data=data).status_code == 303
    assert browser_of_owner.get("/", headers=HTML).status_code == 303
