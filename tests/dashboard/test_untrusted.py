"""What users, trials and addresses bring is shown, never obeyed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hpo.dashboard.board import Board
from hpo.settings import Settings
from hpo.studies.creation import create
from storage.database.engine import Database
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.queue import studies
from storage.queue.studies import NewStudy
from tests.dashboard.seeded import HOSTILE, make_spec

HTML = {"Accept": "text/html"}


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


@pytest.fixture
def long_log(board: Board) -> Iterator[str]:
    """3 MB that trial 8 has printed, of characters of one to four bytes."""
    row = board.row("digits")
    store = ArtifactStore(row.artifacts)
    text = "aé€😀\n" * 273_000
    key = f"{checkpoints.trial_key(row.uid, row.name, 8)}/1/log.txt"
    store.put(key, text.encode())
    yield text
    store.remove(key)


def test_of_a_long_log_no_more_is_read_than_is_shown(
    long_log: str, owner: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows its end, the API gives it in parts that can be joined, the download streams it."""
    monkeypatch.setattr(ArtifactStore, "get", lambda *_: pytest.fail("the whole is read"))
    page = owner.get("/studies/digits/trials/8", headers=HTML).text
    assert long_log[-15_000:] in page
    assert len(page.encode()) < 100_000
    url = "/api/v1/studies/digits/trials/8/log"
    tail = owner.get(url).json()
    assert tail["size"] == tail["end"] == len(long_log.encode())
    assert long_log.endswith(tail["log"])
    assert 59_990 < len(tail["log"].encode()) <= 60_000
    joined, start = "", 0
    while start < tail["size"]:
        part = owner.get(url, params={"start": start, "size": 999_999}).json()
        assert part["start"] == start
        joined, start = joined + part["log"], part["end"]
    assert joined == long_log
    assert owner.get(url, params={"size": 1_000_001}).status_code == 400
    assert owner.get("/studies/digits/trials/8/log/1").text == long_log


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
    for file, kind in {"drawn.png": "image/png", "evil.png": "application/octet-stream"}.items():
        answer = owner.get(f"/studies/digits/trials/9/files/{file}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["x-content-type-options"] == "nosniff"
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


NUMBERS = ["2147483648", "9223372036854775808", "1" + "0" * 40, "1" + "0" * 5000]
NUMBERED = [
    "/studies/digits/trials/{}",
    "/studies/digits/trials/{}/files/x",
    "/studies/digits/trials/{}/log/1",
    "/studies/digits/trials/9/log/{}",
    "/studies/digits/trials/9?attempt={}",
    "/studies/digits?page={}",
    "/api/v1/studies/digits/trials/{}",
    "/api/v1/studies/digits/trials/{}/charts",
    "/api/v1/studies/digits/trials/{}/log",
    "/api/v1/studies/digits/trials/9/log?attempt={}",
    "/api/v1/studies/digits/charts/history-{}",
    "/api/v1/studies/digits/charts/slice-{}",
    "/api/v1/studies/digits/curves?trials={}",
    "/api/studies/{}/param_importances",
    "/api/studies/{}",
    "/api/studies/1?after={}",
    "/csv/{}",
    "/csv/1?trial_ids={}",
]


def test_a_number_no_database_holds_names_nothing(owner: TestClient) -> None:
    for path in NUMBERED:
        for number in (*NUMBERS, "²"):
            answer = owner.get(path.format(number))
            assert answer.status_code in (400, 404), (path, number[:50], answer.text)


NONSENSE = [
    b"[" * 100_000,
    b'{"point":' + b'{"a":' * 50_000,
    b'{"point": "x=' + b"9" * 500 + b'"}',
    b'{"point": {"x": ' + b"9" * 5000 + b"}}",
    b'{"point": {"x": NaN}}',
    b'{"point": {"x": "\\ud800"}}',
    b'{"trials": 1e999}',
    b'{"trials": "' + b"9" * 5000 + b'"}',
    b'{"trials": 1000000000}',
    b"\xff",
    b"[]",
]


def test_nonsense_in_a_body_is_answered_politely(owner: TestClient) -> None:
    for action in ("extend", "enqueue"):
        for body in NONSENSE:
            answer = owner.post(f"/api/v1/studies/digits/actions/{action}", content=body)
            assert answer.status_code == 400, (action, body[:60], answer.text)
        answer = owner.post(f"/studies/digits/actions/{action}", data={"point": "x=" + "9" * 500})
        assert answer.status_code == 400
    answer = owner.post("/api/v1/studies/digits/actions/retry", json={"trial": 2**63})
    assert answer.status_code == 400


NOTES = ["", "[]", "1", "[" * 100_000, '{"body": 1, "version": 1}', '{"body": "x"}']
NOTES += [f'{{"body": "{text}", "version": 1}}' for text in ("\\ud800", "\\u0000")]
NOTES += [f'{{"body": "x", "version": {number}}}' for number in ("-1", '"1"', *NUMBERS)]


def test_nonsense_in_a_note_is_answered_politely(owner: TestClient) -> None:
    """And what is none of optuna-dashboard's studies or trials is not there."""
    for note in NOTES:
        assert owner.put("/api/studies/1/note", content=note).status_code == 400, note[:60]
    right = '{"body": "x", "version": 1}'
    for number in ("99", *NUMBERS):
        assert owner.put(f"/api/studies/{number}/note", content=right).status_code == 404
        assert owner.put(f"/api/studies/1/{number}/note", content=right).status_code == 404
    assert owner.put("/api/studies/1/note", content=right).status_code == 204


def test_slices_of_a_study_without_a_space(owner: TestClient, database: Database, tmp_path: Path) -> None:
    """Its objective suggests for itself: before the first trial there is nothing to slice."""
    create(database, make_spec("own", space={}), Settings(storage="", artifacts=str(tmp_path / "artifacts")))
    for chart in ("slice-1", "slice-2-1", "slice-999", "contour", "parallel", "importance"):
        answer = owner.get(f"/api/v1/studies/own/charts/{chart}")
        assert answer.status_code in (200, 404), (chart, answer.text)
    assert owner.get("/studies/own", headers=HTML).status_code == 200


def test_long_bodies_are_refused(owner: TestClient) -> None:
    answer = owner.post("/api/v1/studies/digits/actions/enqueue", content=b"x" * 300_000)
    assert answer.status_code == 413
