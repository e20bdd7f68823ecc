"""The link that opens once: it lets one browser in, and afterwards nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hpo.dashboard import beside, server
from hpo.dashboard.access import LINK_SECONDS, Access, OneTimeLink
from hpo.dashboard.board import Board
from storage.database.engine import Database
from tests.dashboard.conftest import VIEW_TOKEN

HTML = {"Accept": "text/html"}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`later(seconds)` lets time pass for links."""
    shift = [0.0]
    real = time.monotonic
    monkeypatch.setattr("hpo.dashboard.access.time.monotonic", lambda: real() + shift[0])

    def pass_(seconds: float) -> None:
        shift[0] += seconds

    return pass_


@pytest.fixture
def said(board: Board) -> list[str]:
    """Codes that were announced in the terminal."""
    announced: list[str] = []
    board.access.link.announce = announced.append
    return announced


def opens(client: TestClient, code: str, path: str = "/studies/digits") -> bool:
    """Whether a fresh browser gets in by the link."""
    client.cookies.clear()
    answer = client.get(path, params={"code": code}, headers=HTML)
    assert answer.status_code == 303
    assert "code=" not in answer.headers["location"]
    return client.get("/", headers=HTML).status_code == 200


def test_a_link_lets_one_browser_in_and_leads_to_its_page_without_the_code(
    anyone: TestClient, board: Board, said: list[str]
) -> None:
    """The session may act; the same browser may use the link again; another one may not."""
    code = board.access.link.issue()
    for _ in range(2):
        answer = anyone.get("/studies/digits", params={"code": code, "page": "1"}, headers=HTML)
        assert answer.headers["location"] == "/studies/digits?page=1"
    assert "may act" in anyone.get("/studies/digits", headers=HTML).text
    assert said == []
    assert not opens(anyone, code)


def test_a_used_link_lets_nobody_in_but_a_new_one_appears_in_the_terminal(
    anyone: TestClient, board: Board, said: list[str]
) -> None:
    """One at a time, however often the old one is tried; and those tries lock nobody out."""
    code = board.access.link.issue()
    assert opens(anyone, code)
    for _ in range(30):
        assert not opens(anyone, code)
    assert len(said) == 1
    answer = anyone.get("/", params={"code": code}, headers=HTML)
    assert "A new one stands in the terminal" in anyone.get(answer.headers["location"]).text
    assert opens(anyone, said[0])
    assert not opens(anyone, code)
    assert len(said) == 2


def test_a_link_nobody_used_grows_too_old(
    anyone: TestClient, board: Board, said: list[str], later: Callable[[float], None]
) -> None:
    code = board.access.link.issue()
    later(LINK_SECONDS + 1)
    assert not opens(anyone, code)
    assert opens(anyone, said[0])


def test_guessing_a_link_ends_as_guessing_a_token_does(
    anyone: TestClient, board: Board, said: list[str]
) -> None:
    """Wrong codes count as wrong tokens, and announce nothing."""
    good = board.access.link.issue()
    answers = [anyone.get("/", params={"code": f"{good[:-1]}{n}é"}, headers=HTML) for n in range(12)]
    assert [answer.status_code for answer in answers] == [303] * 10 + [429] * 2
    assert said == []


def test_nothing_but_a_browser_that_opens_a_page_uses_a_link_up(anyone: TestClient, board: Board) -> None:
    """A look at the headers, the API, a sent form: none of them enters, and the link stays good."""
    code = board.access.link.issue()
    assert anyone.head("/", params={"code": code}).status_code == 401
    assert anyone.get("/api/v1/studies", params={"code": code}).status_code == 401
    assert anyone.post("/studies/digits/actions/stop", params={"code": code}).status_code == 401
    assert opens(anyone, code)


def test_who_may_only_look_may_act_by_the_link(anyone: TestClient, board: Board) -> None:
    anyone.get("/", params={"token": VIEW_TOKEN}, headers=HTML)
    assert "looks only" in anyone.get("/", headers=HTML).text
    anyone.get("/", params={"code": board.access.link.issue()}, headers=HTML)
    assert "may act" in anyone.get("/", headers=HTML).text


def test_without_a_link_no_code_opens(anyone: TestClient) -> None:
    assert not opens(anyone, "")
    assert Access("a token of somebody").link.redeem("") is False


def test_the_browser_is_led_through_a_file_that_only_its_owner_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its arguments, which others can read, do not hold the code; the file is gone once the link was used."""
    link, opened = OneTimeLink(), list[Path]()
    code = link.issue()

    def browse(url: str) -> bool:
        file = Path(url.removeprefix("file://"))
        assert code not in url
        assert file.parent.stat().st_mode & 0o077 == 0
        assert f"http://127.0.0.1:1/?code={code}" in file.read_text()
        opened.append(file)
        return link.redeem(code)

    monkeypatch.setenv("BROWSER", "a browser")
    monkeypatch.setattr("webbrowser.open", browse)
    server._open(pytest.fail, "http://127.0.0.1:1/", link, code)
    assert opened
    assert not opened[0].exists()


def test_where_no_browser_can_be_opened_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text browser in the terminal of the run would be no help."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("webbrowser.open", pytest.fail)
    said: list[str] = []
    server._open(said.append, "http://127.0.0.1:1/", OneTimeLink(), "x")
    assert said == ["no browser can be opened here; open the link yourself"]


def test_the_dashboard_beside_a_run_calculates_with_one_thread_unless_somebody_says_otherwise(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `hpo dashboard` does: with two the path of 20 parameters took 7.2 s, not 0.3, on a busy machine."""

    class StartedError(Exception):
        pass

    def start(*_: object, env: dict[str, str], **__: object) -> None:
        raise StartedError(env["OPENBLAS_NUM_THREADS"], env["OMP_NUM_THREADS"])

    monkeypatch.setattr("subprocess.Popen", start)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with (
        pytest.raises(StartedError, match="'1', '3'"),
        beside.beside(database, "digits", print, open_browser=False),
    ):
        pass
