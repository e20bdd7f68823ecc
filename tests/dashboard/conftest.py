"""A dashboard over a small seeded database, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hpo.dashboard.access import Access
from hpo.dashboard.app import build_app, make_board
from hpo.dashboard.board import Board
from storage.database.engine import Database
from storage.database.migrate import open_database
from tests.dashboard.seeded import seed

TOKEN, VIEW_TOKEN = "the token of the tests", "the view token of the tests"
BASE = "http://127.0.0.1:8080"


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the study "digits", to be copied."""
    folder = tmp_path_factory.mktemp("seeded")
    url = f"sqlite:///{folder / 'hpo.db'}"
    found = open_database(url)
    seed(found, url, folder / "artifacts")
    found.close()
    return folder / "hpo.db"


@pytest.fixture
def database(sqlite_url: str, tmp_path: Path, seeded: Path) -> Iterator[Database]:
    """A database with the study "digits" of this test alone; its artifacts are shared."""
    shutil.copy(seeded, tmp_path / "hpo.db")
    found = open_database(sqlite_url)
    yield found
    found.close()


@pytest.fixture
def board(database: Database) -> Board:
    """What the pages of this test's dashboard share."""
    return make_board(database, Access(TOKEN, VIEW_TOKEN), lease=300.0)


@pytest.fixture
def anyone(board: Board) -> Iterator[TestClient]:
    """Somebody without a token."""
    with TestClient(
        build_app(board), base_url=BASE, raise_server_exceptions=False, follow_redirects=False
    ) as client:
        yield client


@pytest.fixture
def viewer(anyone: TestClient) -> TestClient:
    """A script with the view token."""
    anyone.headers["Authorization"] = f"Bearer {VIEW_TOKEN}"
    return anyone


@pytest.fixture
def early(board: Board) -> TestClient:
    """As `viewer`, of a server that has made nothing ready yet."""
    return TestClient(build_app(board), base_url=BASE, headers={"Authorization": f"Bearer {VIEW_TOKEN}"})


@pytest.fixture
def owner(anyone: TestClient) -> TestClient:
    """A script with the token."""
    anyone.headers["Authorization"] = f"Bearer {TOKEN}"
    return anyone


@pytest.fixture
def browser_of_owner(anyone: TestClient) -> TestClient:
    """A browser that has opened the printed address."""
    answer = anyone.get("/", params={"token": TOKEN}, headers={"Accept": "text/html"})
    assert answer.status_code == 303
    return anyone
