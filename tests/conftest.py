"""Fixtures every test can ask for: databases, a proxy, the real command, Chromium."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: processes that share cores fight otherwise

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.support.browser import CHROMIUM_ARGS, find_chromium
from tests.support.command import FORKED_FROM, HpoProcess, HpoResult, run_hpo
from tests.support.forking import Forking
from tests.support.order import dealt
from tests.support.pg import NoPostgresError, PgServer
from tests.support.proxy import TcpProxy
from tests.support.skips import NO_GPU, refuse_skip, skips_fail
from tests.support.statements import compiled_once

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class RunHpo(Protocol):
    """`run_hpo` with the test's own directory as its working directory."""

    def __call__(self, *args: str | Path, **options: Any) -> HpoResult: ...


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    """No test reads the user's database or settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("HPO_"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def _forking(_own_environment: None) -> Iterator[None]:
    """Commands are forked from one process; benches and fault tables outside of pytest start each anew."""
    forking = Forking()
    FORKED_FROM.append(forking)
    yield
    FORKED_FROM.remove(forking)
    forking.close()


@pytest.fixture(autouse=True, scope="session")
def _patience(_own_environment: None) -> Iterator[None]:
    """In this process no database is away because the machine is busy; who tests impatience sets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.database.engine.IMPATIENT_SECONDS", 60.0)
        patch.setattr("storage.database.engine.IDLE_SECONDS", 120)
        yield


@pytest.fixture(autouse=True, scope="session")
def _statements() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture
def started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what /proc shows of a command, or what it imports: each is started by itself."""
    monkeypatch.setattr("tests.support.command.FORKED_FROM", [])


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PgServer]:
    """A running PostgreSQL shared by the tests of this process: do not stop or pause it."""
    yield from _pg_server()


@pytest.fixture
def own_pg_server() -> Iterator[PgServer]:
    """A running PostgreSQL of this test alone, to stop, kill, pause and restart (takes about a second)."""
    yield from _pg_server()


def _pg_server() -> Iterator[PgServer]:
    try:
        server = PgServer()
    except NoPostgresError as error:
        pytest.skip(str(error))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def pg_url(pg_server: PgServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test alone."""
    url = pg_server.create_database()
    yield url
    pg_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'hpo.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def storage_url(request: pytest.FixtureRequest) -> str:
    """An empty database, on SQLite and then on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    return url


@pytest.fixture
def pg_proxy(pg_server: PgServer) -> Iterator[TcpProxy]:
    """A network to the shared server that can be cut: `proxy.url(pg_url)`, `cut()`, `heal()`."""
    with TcpProxy(pg_server.port) as proxy:
        yield proxy


@pytest.fixture
def chromium() -> str:
    """The path of Chromium; start it with tests.support.browser.CHROMIUM_ARGS."""
    return _chromium()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium shared by the tests of a module; open a `tests.support.browser.Tab` in it.

    Not of the whole session: playwright's event loop stands in the way of tests that run their own.
    """
    from playwright.sync_api import sync_playwright

    chromium = _chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=list(CHROMIUM_ARGS), timeout=120_000
        )
        yield started
        started.close()


def _chromium() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium ($CHROMIUM or on the PATH)")
    return found


@pytest.fixture
def hpo(tmp_path: Path) -> RunHpo:
    """Run the real command in this test's directory: `hpo("show", "digits", env={...}).check().json`."""

    def run(*args: str | Path, **options: Any) -> HpoResult:
        return run_hpo(*args, **{"cwd": tmp_path, **options})

    return run


@pytest.fixture
def start_hpo(tmp_path: Path) -> Iterator[Callable[..., HpoProcess]]:
    """Start the real command and go on; whatever still runs when the test ends is killed."""
    started: list[HpoProcess] = []

    def start(*args: str | Path, **options: Any) -> HpoProcess:
        process = HpoProcess(*args, **{"cwd": tmp_path, **options})
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.__exit__()


_SKIPS_FAIL = skips_fail()  # read before the environment of the tests is cleaned


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL or a browser, so that `-m "not postgres"` leaves it out; deal them out."""
    needs = {
        "pg_server": "postgres",
        "own_pg_server": "postgres",
        "chromium": "browser",
        "browser": "browser",
    }
    for item in items:
        for fixture, marker in needs.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    items[:] = dealt(items, Path(__file__).parent, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch  # only here: most runs of one file need no torch

    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _SKIPS_FAIL:
        refuse_skip(report, is_gpu_test=item.get_closest_marker("gpu") is not None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if _SKIPS_FAIL:
        refuse_skip(report)
    return report
