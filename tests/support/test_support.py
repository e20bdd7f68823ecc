"""The proxy, the command runner, the polling helper and the skip rule do what they say."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from tests.support import command
from tests.support.browser import find_chromium
from tests.support.command import HpoProcess, hpo_environment, run_hpo
from tests.support.order import dealt
from tests.support.pg import PgServer
from tests.support.proxy import TcpProxy
from tests.support.skips import NO_GPU, NO_ROOT, NO_SLURM, VARIABLE, refuse_skip
from tests.support.waiting import wait_until

pytest_plugins = ["pytester"]


# -- waiting


def test_wait_until_returns_what_the_predicate_returned() -> None:
    answers = iter([None, 0, "here"])
    assert wait_until(lambda: next(answers), every=0) == "here"


def test_wait_until_does_not_count_how_long_the_process_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def stopped_for_an_hour(_seconds: float) -> None:
        clock[0] += 3600.0

    monkeypatch.setattr("tests.support.waiting.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tests.support.waiting.time.sleep", stopped_for_an_hour)
    assert wait_until(lambda: clock[0] > 7000.0, timeout=1.0)


def test_wait_until_says_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the moon falls"):
        wait_until(lambda: False, timeout=0, what="the moon falls")


# -- the proxy


def test_the_proxy_is_invisible_until_it_is_cut(pg_proxy: TcpProxy, pg_url: str) -> None:
    with psycopg.connect(pg_proxy.url(pg_url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert pg_proxy.connections == 1


def test_a_held_connection_gets_its_answer_after_the_network_is_back(pg_proxy: TcpProxy, pg_url: str) -> None:
    with psycopg.connect(pg_proxy.url(pg_url)) as connection, ThreadPoolExecutor(1) as elsewhere:
        pg_proxy.cut("hold")
        answer = elsewhere.submit(lambda: connection.execute("SELECT 42").fetchone())
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(pg_proxy.url(pg_url), connect_timeout=2)
        assert not answer.done()
        pg_proxy.heal()
        assert answer.result(120) == (42,)


def test_a_reset_network_breaks_connections_and_refuses_new_ones(pg_proxy: TcpProxy, pg_url: str) -> None:
    with psycopg.connect(pg_proxy.url(pg_url)) as connection:
        pg_proxy.cut("reset")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(pg_proxy.url(pg_url))
        pg_proxy.heal()
    with psycopg.connect(pg_proxy.url(pg_url)) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_a_forgetful_network_resets_what_it_held(pg_proxy: TcpProxy, pg_url: str) -> None:
    with psycopg.connect(pg_proxy.url(pg_url)) as connection:
        pg_proxy.cut("hold")
        pg_proxy.heal(forget=True)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_the_proxy_passes_on_that_the_server_is_down(own_pg_server: PgServer) -> None:
    with TcpProxy(own_pg_server.port) as proxy:
        own_pg_server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.url(own_pg_server.url()))


# -- the command


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let `run_hpo` run a few lines of Python instead of the real command."""
    return lambda code: monkeypatch.setattr(command, "COMMAND", (sys.executable, "-c", code))


def test_run_hpo_keeps_the_two_outputs_and_the_exit_code_apart(
    fake_command: Callable[[str], None], tmp_path: Path
) -> None:
    fake_command("import sys; print('[1]'); print('said', file=sys.stderr); sys.exit(3)")
    result = run_hpo("show", cwd=tmp_path)
    assert (result.code, result.json, result.err) == (3, [1], "said\n")
    with pytest.raises(AssertionError, match="hpo show ended with 3, not 0"):
        result.check()


def test_a_command_is_waited_for_in_vain_and_leaves_nothing_behind(
    fake_command: Callable[[str], None], tmp_path: Path
) -> None:
    fake_command(
        "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); "
        "print(child.pid, flush=True); child.wait()"
    )
    with HpoProcess(cwd=tmp_path) as process:
        process.wait_for("\n")
        with pytest.raises(AssertionError, match=r"still runs after 0\.1 s\n[0-9]+\n"):
            process.wait(0.1)
        child = int(process.out)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_started_command_can_be_watched_and_signalled(
    fake_command: Callable[[str], None], tmp_path: Path
) -> None:
    fake_command("import signal; print('ready'); signal.pause()")
    with HpoProcess("worker", cwd=tmp_path) as process:
        process.wait_for("ready")
        process.signal(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM


def test_waiting_for_a_line_ends_with_the_command(
    fake_command: Callable[[str], None], tmp_path: Path
) -> None:
    fake_command("print('something else')")
    with (
        HpoProcess(cwd=tmp_path) as process,
        pytest.raises(AssertionError, match="ended without printing 'ready'"),
    ):
        process.wait_for("ready")


def test_the_command_sees_no_setting_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_STORAGE", "sqlite:///precious.db")
    assert "HPO_STORAGE" not in hpo_environment()
    assert hpo_environment({"HPO_STORAGE": "sqlite:///mine.db"})["HPO_STORAGE"] == "sqlite:///mine.db"
    assert "HOME" not in hpo_environment({"HOME": None})


# -- Chromium


def test_the_named_chromium_comes_before_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "my-chromium"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(named))
    assert find_chromium() == str(named)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "missing"))
    assert find_chromium() is None


# -- skips


def report_of_skip(reason: str) -> pytest.TestReport:
    where = ("test_part.py", 1, f"Skipped: {reason}")
    return pytest.TestReport("test_part.py::test_it", ("", 1, ""), {}, "skipped", where, "setup")


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_tests_are_dealt_whole_what_waits_and_what_is_long_first(parts: int, tmp_path: Path) -> None:
    """None is lost or runs twice, whatever the number of processes."""
    folders = ["contract"] * 60 + ["end_to_end"] * 12 + ["faults"] * 5 + ["unit"] * 43
    tests = [
        SimpleNamespace(path=tmp_path / folder / f"{i // 3}.py", number=i) for i, folder in enumerate(folders)
    ]
    found = dealt(tests, tmp_path, parts)
    assert sorted(one.number for one in found) == list(range(120))
    begins = [found[120 // parts * part].path.parent.name for part in range(parts)]
    assert begins[:5] == ["faults", *["end_to_end"] * (parts - 1)][:5]


@pytest.mark.parametrize(
    ("reason", "is_gpu_test", "outcome"),
    [
        ("no Chromium", False, "failed"),
        (NO_GPU, True, "skipped"),
        (NO_GPU, False, "failed"),
        ("no data set", True, "failed"),
        (f"{NO_SLURM} (slurmctld)", False, "skipped"),
        (f"a network namespace {NO_ROOT}", False, "skipped"),
    ],
)
def test_only_what_a_test_run_cannot_install_excuses_a_skip_where_nothing_may_be_missing(
    reason: str, is_gpu_test: bool, outcome: str
) -> None:
    report = report_of_skip(reason)
    refuse_skip(report, is_gpu_test=is_gpu_test)
    assert report.outcome == outcome
    assert reason in str(report.longrepr)


@pytest.mark.parametrize(("value", "failed"), [("", 0), ("1", 1)])
def test_the_variable_turns_skips_into_failures(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    value: str,
    failed: int,
) -> None:
    root = request.config.rootpath
    pytester.makeconftest((root / "tests" / "conftest.py").read_text())
    pytester.makeini(f"[pytest]\nmarkers =\n  gpu: x\npythonpath = {root}\n")
    pytester.makepyfile(
        test_collected="import pytest; pytest.importorskip('no_such_module')",
        test_run="""
            import pytest

            def test_without_a_part():
                pytest.skip("no such part")

            @pytest.mark.xfail
            def test_known_to_fail():
                assert False
        """,
    )
    monkeypatch.setenv(VARIABLE, value)
    result = pytester.runpytest_subprocess("--continue-on-collection-errors", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=failed, errors=failed, skipped=2 - 2 * failed, xfailed=1)
    assert (result.ret != 0) == bool(failed)
