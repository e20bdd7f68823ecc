"""The password of a storage URL appears nowhere: no output, no command line, no file, no table."""

from __future__ import annotations

import shlex
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoResult
from tests.support.pg import PASSWORD, PgServer
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("started_anew")

WAITS = """
    import time
    from pathlib import Path

    def objective(trial):
        Path("started").touch()
        while not Path("go").exists():
            time.sleep(0.02)
        print("environment:", sorted(__import__("os").environ.items()))
        return trial.suggest_float("x", -10, 10) ** 2
"""


def said(result: HpoResult) -> str:
    return result.out + result.err


@pytest.fixture
def secure(place: Workplace, pg_url: str) -> Workplace:
    """A place whose storage is PostgreSQL with a password, named in the environment."""
    place.env["HPO_STORAGE"] = pg_url
    return place


def test_a_study_on_postgresql_leaves_no_trace_of_the_password(
    secure: Workplace, pg_server: PgServer, pg_url: str
) -> None:
    spec = secure.study("s", WAITS, budget={"trials": 2})
    created = secure.hpo("create", spec.name).check()
    assert PASSWORD not in said(created)
    assert created.out.startswith("PGPASSWORD=... hpo worker s --storage postgresql://")
    with secure.start("run", spec.name, "--runners", "1") as run:
        wait_until((secure.path / "started").exists, what="the objective starts")
        for process in [psutil.Process(run.pid), *run.children()]:
            assert PASSWORD not in " ".join(process.cmdline())
        for runner in run.children():
            assert PASSWORD not in str(runner.environ())
        (secure.path / "go").touch()
        outputs = [said(run.wait().check())]
    outputs += [
        said(secure.hpo(*command).check())
        for command in (
            ["show", "s", "--format", "json"],
            ["workers", "--format", "json"],
            ["logs", "s/0"],
            ["doctor", "s"],
            ["db", "upgrade"],
        )
    ]
    assert all(PASSWORD not in text for text in outputs)
    assert files_with(PASSWORD, secure.path) == []
    assert PASSWORD not in everything_stored(pg_server, pg_url)


@pytest.mark.parametrize(
    ("secret", "command"),
    [("hunter2hunter2", "run"), ("p@ss:w/rd%?", "worker"), ("pg-wrong password", "doctor")],
)
def test_a_wrong_password_is_said_without_it(
    secret: str, command: str, place: Workplace, pg_url: str
) -> None:
    wrong = make_url(pg_url).set(password=secret).render_as_string(hide_password=False)
    name = place.study("s").name
    target = {"run": [name], "worker": ["s"], "doctor": []}[command]
    result = place.hpo(command, *target, "--storage", wrong, timeout=120)
    assert result.code == (1 if command == "doctor" else 4)
    assert "password authentication failed" in said(result)
    assert_nothing_of(secret, result)


@pytest.mark.parametrize(
    "place_of_secret",
    ["postgresql://ada:{}@127.0.0.1:{}/lab", "postgresql://127.0.0.1:{1}/lab?user=ada&password={0}"],
)
def test_an_unreachable_server_is_said_without_the_password(place_of_secret: str, place: Workplace) -> None:
    url = place_of_secret.format("hunter2hunter2", free_port())
    result = place.hpo("ls", "--storage", url, timeout=120).check(4)
    assert "127.0.0.1" in result.err
    assert_nothing_of("hunter2hunter2", result)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hunter2hunter2@no-such-host.invalid/lab",
        "postgresql://ada:hunter2hunter2@h:port/lab",
        "postgres://ada:hunter2hunter2@h/lab",
        "mysql://ada:hunter2hunter2@h/lab",
        "postgresql:/ada:hunter2hunter2@h/lab",
        "hunter2hunter2",
    ],
)
def test_no_form_of_a_wrong_url_is_echoed_with_its_password(url: str, place: Workplace) -> None:
    result = place.hpo("ls", "--storage", url, timeout=120)
    assert result.code in (2, 4)
    assert_nothing_of("hunter2hunter2", result)


def test_a_worker_line_pasted_with_its_password_in_the_environment_works(
    secure: Workplace, pg_url: str
) -> None:
    """What `hpo create` prints is complete but for the password, which libpq reads from PGPASSWORD."""
    spec = secure.study("s", budget={"trials": 2})
    line = secure.hpo("create", spec.name).check().out
    words = shlex.split(line)
    assert words[:2] == ["PGPASSWORD=...", "hpo"]
    elsewhere = Workplace(secure.path.parent / "elsewhere", {"PGPASSWORD": PASSWORD})
    elsewhere.path.mkdir(exist_ok=True)
    elsewhere.hpo(*words[2:], "--runners", "1").check()
    assert secure.show("s")["trials"]["complete"] == 2


def assert_nothing_of(secret: str, result: HpoResult) -> None:
    quoted = make_url("postgresql://h").set(username="u", password=secret).render_as_string(False)
    for form in (secret, quoted.split(":", 2)[2].split("@")[0]):
        assert form not in said(result)
    assert "Traceback" not in said(result)


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def everything_stored(server: PgServer, url: str) -> str:
    """Every row of every table, as text."""
    with server.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) > 5
        rows = [connection.execute(f'SELECT t::text FROM "{table}" t').fetchall() for (table,) in tables]
    return str(rows)
