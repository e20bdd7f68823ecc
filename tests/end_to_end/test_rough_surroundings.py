"""Devices, full disks, closed streams, odd names and numbers: each ends in a sentence."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.cli.output import cell, shown_lines
from hpo.dashboard import pages
from hpo.dashboard.access import Access
from hpo.dashboard.app import make_board
from hpo.dashboard.board import Board
from hpo.dashboard.lists import card_of, list_studies
from hpo.dashboard.render import render_parts
from hpo.errors import HpoError, SpecError
from hpo.files import write_whole
from hpo.spec import load_spec, loading, parse_spec
from storage.database.migrate import open_database
from storage.files.checkpoints import study_key
from tests.end_to_end.workplace import Workplace
from tests.support.command import hpo_environment
from tests.support.cpu import at_most_cpu

LONG = "n" * 300


@pytest.fixture
def ready(place: Workplace) -> Workplace:
    """A place with a study that nobody has run."""
    place.look("create", place.study("s").name).check()
    return place


@pytest.fixture
def sqlite_board(ready: Workplace) -> Iterator[Board]:
    """A dashboard's view of that place."""
    database = open_database(f"sqlite:///{ready.path / 'hpo.db'}")
    yield make_board(database, Access("the token of the tests"))
    database.close()


def test_what_is_no_file_is_written_in_place(tmp_path: Path) -> None:
    """As root `-o /dev/full` replaced the device by a file. A link stays a link."""
    pipe, seen = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.extend(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, "content", "report")
    reader.join(120)
    assert bytes(seen) == b"content"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(HpoError, match="No space left on device"):
        write_whole(Path("/dev/full"), "content", "report")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to("target")
    write_whole(link, "content", "report")
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "content"
    with pytest.raises(HpoError, match="File name too long"):
        write_whole(tmp_path / LONG, "content", "report")


REFUSED = [
    (2, ["trial", "s/²"], "name a trial as STUDY/NUMBER"),
    (3, ["trial", "s/" + "9" * 30], "has no trial 9999"),
    (3, ["logs", "s/" + "9" * 5000], "has no trial 9999"),
    (2, ["extend", "s", "--trials", "+²"], "whole number of further trials"),
    (2, ["extend", "s", "--trials", "+9999999"], "at most 1,000,000 trials"),
    (2, ["extend", "s", "--trials", "9" * 5000], "whole number of further trials"),
    (2, ["enqueue", "s", "x=" + "9" * 500], "a number of 500 characters"),
    (2, ["worker", "s", "--runners", "99999999"], "--runners must be between 1 and 1,024"),
    (2, ["worker", "s", "--per-gpu", "99999999"], "--per-gpu must be between 1 and 1,024"),
    (2, ["dashboard", "--port", "99999"], "--port"),
    (2, ["launch", "s", "--on", "ray", "--gpus-per-worker", "nan"], "--gpus-per-worker must be between"),
    (2, ["launch", "s", "--on", "local", "--workers", "99999999"], "--workers must be between"),
    (1, ["export", "s", "-o", f"{LONG}.csv"], "File name too long"),
    (1, ["ls", "--storage", f"sqlite:///{LONG}/x.db"], "File name too long"),
    (1, ["ls", "--storage", f"sqlite:///{LONG}.db"], "File name too long"),
    (1, ["db", "upgrade", "--storage", "sqlite:////proc/x.db"], "cannot write beside"),
]


def test_odd_numbers_and_names_are_refused_in_sentences(ready: Workplace) -> None:
    for code, command, told in REFUSED:
        result = ready.look(*command)
        assert (result.code, told in result.err, "Traceback" in result.err) == (code, True, False), (
            [word[:40] for word in command],
            str(result)[-600:],
        )


def in_shell(place: Workplace, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` of a shell in which `hpo` is ours."""
    hpo = f'hpo() {{ {sys.executable} -m hpo "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", hpo + command],
        cwd=place.path,
        env={**hpo_environment(), "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_streams_that_are_closed_or_full(ready: Workplace) -> None:
    """Closed ones swallow what is written, or the database would be opened in their place."""
    assert in_shell(ready, "hpo ls >&-; echo $?").stdout == "0\n"
    found = in_shell(ready, "hpo ls --format json >/dev/full; echo $?")
    assert found.stdout == "1\n"
    assert found.stderr == "hpo: the output cannot be written: No space left on device\n"
    assert in_shell(ready, "hpo show nix 2>/dev/full; echo $?").stdout == "3\n"


def test_a_directory_that_is_gone_and_a_terminal_that_knows_ascii(ready: Workplace) -> None:
    found = in_shell(ready, "mkdir gone; cd gone; rmdir ../gone; hpo ls")
    assert found.stderr.splitlines()[-1] == "hpo: the working directory is gone; change to another"
    assert "Traceback" not in found.stderr
    ready.look("create", ready.study("größe").name).check()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = in_shell(ready, "hpo ls; hpo ls --format json", **ascii_only)
    assert "gr\\xf6\\xdfe" in found.stdout
    assert '"gr\\u00f6\\u00dfe"' in found.stdout
    assert found.stderr == ""


def test_a_study_file_may_come_through_a_pipe_but_not_keep_us_waiting(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, pipe = place.study("s"), place.path / "pipe.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(spec.read_bytes()))
    writer.start()
    read_end = os.open(pipe, os.O_RDONLY)  # so that the writer has begun
    assert load_spec(pipe).study == "s"
    os.close(read_end)
    writer.join(120)
    monkeypatch.setattr(loading, "PIPE_SECONDS", 0.1)
    held = os.open(pipe, os.O_RDWR)
    with pytest.raises(SpecError, match="nothing came through this pipe"):
        load_spec(pipe)
    os.close(held)


def test_forty_thousand_choices_are_not_compared_with_each_other() -> None:
    data = {"study": "s", "objective": "m", "direction": "minimize", "budget": {"trials": 5}}
    choices = [f"c{n}" for n in range(40_000)]
    with at_most_cpu(5):
        spec = parse_spec({**data, "space": {"c": {"type": "categorical", "choices": choices}}})
    assert len(spec.space["c"].choices) == 40_000  # type: ignore[union-attr]
    with pytest.raises(SpecError, match=r"repeats the choice 1 \(true and 1 are equal\)"):
        parse_spec({**data, "space": {"c": {"type": "categorical", "choices": [True, 1]}}})


def test_nothing_of_others_steers_the_terminal() -> None:
    assert cell("\x1b[31mred\x07\u202e") == "\\x1b[31mred\\x07\\u202e"
    assert shown_lines("one\ntwo\r\x1b]0;title\x07") == "one\ntwo\\r\\x1b]0;title\\x07"
    assert cell({"a": "\x9b2J", "b": ["\x1b"]}) == "a=\\x9b2J, b=\\x1b"


def test_whatever_is_raised_is_recorded_as_what_it_is(place: Workplace) -> None:
    """Also what is no Exception, what cannot be told, and text that is no UTF-8."""
    spec = place.study(
        "s",
        """
        class Odd(BaseException):
            pass

        class Mute(Exception):
            def __str__(self):
                raise ZeroDivisionError

        def objective(trial):
            trial.set_user_attr("note", "\\ud800")
            if trial.number == 3:
                open("/dev/full", "wb", buffering=0).write(b"x")
            raise [Odd("odd"), Mute(), ValueError("\\ud800\\x1b[2J")][trial.number]
        """,
        budget={"trials": 4},
    )
    result = place.run(spec).check(1)
    assert "this is a bug" not in result.err
    errors = [trial["error"] for trial in place.trials("s")]
    told = ["Odd: odd", "Mute", "ValueError: \\ud800", "None is full now: the file system at /"]
    assert all(part in str(error) for part, error in zip(told, errors, strict=True)), errors
    shown = place.look("trials", "s").check().out
    assert "\x1b" not in shown


def test_one_damaged_study_hides_no_other(ready: Workplace, sqlite_board: Board) -> None:
    """Neither in `hpo ls` nor on the dashboard; by its own name it is a sentence, and can be deleted."""
    ready.look("create", ready.study("whole").name).check()
    with sqlite3.connect(ready.path / "hpo.db") as connection:
        connection.execute("UPDATE hpo_study SET spec = '{\"sampler' WHERE name = 's'")
        (uid,) = connection.execute("SELECT uid FROM hpo_study WHERE name = 's'").fetchone()
    for form in ("table", "json"):
        listed = ready.look("ls", "--format", form).check()
        assert "whole" in listed.out
        assert "the study s is damaged in the database" in listed.err
    assert [study["name"] for study in ready.look("ls", "--format", "json").json] == ["whole"]
    shown = ready.look("show", "s")
    assert (shown.code, "Traceback" in shown.err) == (1, False)
    page = list_studies(sqlite_board.database, card_of)
    assert [card.row.name for card in page.studies] == ["whole"]
    assert "study s is damaged" in page.damaged[0]
    html = render_parts(pages.studies(sqlite_board, {}))["list"].html
    assert "study s is damaged" in html
    kept = ready.path / "hpo-artifacts" / study_key(uid, "s")
    kept.mkdir(parents=True)
    assert "the study s is damaged" in ready.look("delete", "s", "--yes").check().err
    assert not kept.exists()
    assert ready.look("ls").check().err == ""


WITHOUT_RIGHTS = """
import ctypes, os, sys
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
for one in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):  # or root writes where nobody may
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, one, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "hpo", *sys.argv[1:]])
"""


def test_a_database_that_cannot_be_written_gives_a_sentence(ready: Workplace, pg_url: str) -> None:
    """A file without the right to write, and a server that only reads: what looks goes on where it can."""
    for file in ready.path.glob("hpo.db*"):
        file.chmod(0o444)
    ready.path.chmod(0o555)
    environment = hpo_environment({"HPO_ARTIFACTS": "/tmp"})
    try:
        for words in (["pause", "s"], ["run", "s.yaml", "--no-report"]):
            command = [sys.executable, "-c", WITHOUT_RIGHTS, *words]
            ended = subprocess.run(
                command, cwd=ready.path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert ended.returncode in (1, 4), ended.stderr
            assert "Traceback" not in ended.stderr
            assert "hpo.db" in ended.stderr.splitlines()[-1]
    finally:
        ready.path.chmod(0o755)
    ready.env["HPO_STORAGE"] = pg_url
    ready.look("create", "s.yaml").check()
    database = open_database(pg_url)
    with database.transaction() as connection:
        name = pg_url.rpartition("/")[2]
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.close()
    assert "s" in ready.look("ls").check().out
    refused = ready.look("pause", "s")
    assert (refused.code, "in a read-only transaction" in refused.err) == (4, True)


def test_a_name_beyond_ascii_under_an_ascii_locale(ready: Workplace) -> None:
    """A sentence says what to do, and that helps."""
    ready.look("create", ready.study("größe").name).check()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = in_shell(ready, "hpo show größe; echo $?", **ascii_only)
    assert found.stdout == "2\n"
    assert "a name is no text in this locale's encoding; try again with PYTHONUTF8=1" in found.stderr
    assert in_shell(ready, "hpo show größe", **{**ascii_only, "PYTHONUTF8": "1"}).stderr == ""
