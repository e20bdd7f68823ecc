"""The short form of `make fuzz`: the same hostile input from a fixed seed, a few seconds of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from starlette.testclient import TestClient

from hpo.dashboard.access import Access
from hpo.dashboard.app import build_app, make_board
from storage.database.migrate import open_database
from tests.dashboard.conftest import BASE, TOKEN
from tests.dashboard.seeded import seed as seeded
from tests.fuzz import cases, checks
from tests.support.command import look
from tests.support.study_files import FULL

QUICK = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    max_examples=100,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A script with the token at a dashboard of a seeded database."""
    folder = tmp_path_factory.mktemp("fuzz")
    url = f"sqlite:///{folder / 'hpo.db'}"
    database = open_database(url)
    seeded(database, url, folder / "artifacts")
    app = build_app(make_board(database, Access(TOKEN), lease=3600.0))
    with TestClient(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    database.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a study file and a database."""
    found = tmp_path_factory.mktemp("fuzz")
    (found / "s.yaml").write_text(FULL)
    look("create", "s.yaml", cwd=found)
    return found


@seed(14)
@given(cases.study_files())
@QUICK
def test_any_study_file_is_read_or_refused(content: bytes) -> None:
    checks.check_study_file(content)


@seed(14)
@given(request_=cases.requests())
@QUICK
def test_any_request_is_answered(
    client: TestClient, request_: tuple[str, str, dict[str, str], bytes]
) -> None:
    checks.check_request(client, request_)


@seed(14)
@given(words=cases.command_lines())
@settings(QUICK, max_examples=30)
def test_any_command_line_ends_in_a_sentence(folder: Path, words: list[str]) -> None:
    checks.check_command_line(words, folder)
