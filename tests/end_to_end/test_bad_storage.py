"""A storage that cannot be used is refused with the reason and what to do; a good one is left as it was."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.end_to_end.workplace import Workplace
from tests.support.ports import free_port

WRONG_URLS = {
    "no URL": ("nonsense", ["cannot be read", "sqlite:///file.db", "postgresql://"]),
    "a typo in the dialect": ("postgrsql://h/db", ["names postgrsql", "postgresql://"]),
    "the old dialect of Heroku": ("postgres://u:secret@h/db", ["postgresql://"]),
    "without its driver": ("postgresql+pg8000://u:secret@h/db", ["pg8000", "not installed"]),
    "another database": ("mysql://u:secret@h/db", ["names mysql", "PostgreSQL"]),
    "no number as its port": ("postgresql://u:secret@h:port/db", ["cannot be read"]),
    "in memory": ("sqlite://", ["in-memory", "sqlite:///file.db"]),
    "a directory that is not there": ("sqlite:///not/there/hpo.db", ["directory", "not/there"]),
}


@pytest.mark.parametrize("case", WRONG_URLS)
def test_a_wrong_storage_url_is_refused_with_what_to_write(case: str, place: Workplace) -> None:
    url, said = WRONG_URLS[case]
    spec = place.study("s")
    result = place.run(spec, "--storage", url).check(2)
    for part in said:
        assert part in result.err
    assert "secret" not in result.err + result.out
    assert "Traceback" not in result.err
    assert sorted(path.name for path in place.path.iterdir()) == ["s.py", "s.yaml"]


def test_the_environment_names_the_storage_and_the_option_wins(place: Workplace) -> None:
    spec = place.study("s")
    named = {"HPO_STORAGE": "sqlite:///elsewhere.db"}
    place.hpo("create", spec.name, env=named).check()
    assert not (place.path / "hpo.db").exists()
    assert [row["name"] for row in place.hpo("ls", "--format", "json", env=named).check().json] == ["s"]
    place.hpo("show", "s", "--storage", "sqlite:///hpo.db", env=named).check(3)


def test_looking_where_there_is_no_database_creates_none(place: Workplace) -> None:
    for command in (["ls"], ["best", "s"], ["report", "s"]):
        result = place.look(*command).check(3)
        assert "no studies" in result.err
    assert list(place.path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(place: Workplace) -> None:
    file = place.write("photo.db", b"\x89PNG" + bytes(range(256)) * 40)
    before = file.read_bytes()
    spec = place.study("s")
    result = place.run(spec, "--storage", "sqlite:///photo.db").check(4)
    assert "photo.db is not a database" in result.err
    assert file.read_bytes() == before


def test_a_database_of_something_else_gains_our_tables_and_keeps_its_own(place: Workplace) -> None:
    with closing(sqlite3.connect(place.path / "other.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.execute("INSERT INTO recipes VALUES ('soup')")
        other.commit()
    place.hpo("create", place.study("s").name, "--storage", "sqlite:///other.db").check()
    with closing(sqlite3.connect(place.path / "other.db")) as other:
        assert other.execute("SELECT name FROM recipes").fetchall() == [("soup",)]


@pytest.fixture(params=["ours", "optuna's"])
def newer(request: pytest.FixtureRequest, place: Workplace) -> tuple[Workplace, str]:
    """A place whose database a newer version of hpo, or of Optuna, has migrated."""
    place.look("create", place.study("s").name).check()
    ours = request.param == "ours"
    with closing(sqlite3.connect(place.path / "hpo.db")) as database:
        table = "hpo_version" if ours else "alembic_version"
        database.execute(f"UPDATE {table} SET version_num = 'v99.0.0'")
        if not ours:
            database.execute("UPDATE version_info SET schema_version = 99, library_version = '99.0.0'")
        database.commit()
    return place, "hpo" if ours else "Optuna"


def test_a_database_of_a_newer_version_is_refused_by_every_command_and_not_touched(
    newer: tuple[Workplace, str],
) -> None:
    place, whose = newer
    before = dump(place.path / "hpo.db")
    spec = place.path / "s.yaml"
    for command in (["run", spec.name], ["show", "s"], ["db", "upgrade"], ["doctor"]):
        ask = place.hpo if command[0] == "run" else place.look
        result = ask(*command).check(1 if command == ["doctor"] else 4)
        told = result.out + result.err
        assert whose in told
        assert "version" in told
        assert "Traceback" not in told
    assert dump(place.path / "hpo.db") == before


def dump(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(database.iterdump())


def test_a_server_that_is_not_there_is_said_within_seconds(place: Workplace) -> None:
    spec = place.study("s")
    url = f"postgresql://ada@127.0.0.1:{free_port()}/lab"
    commands = (["run", spec.name], ["ls"], ["worker", "s"])
    with ExitStack() as stack:  # together, since each waits
        started = [stack.enter_context(place.start(*words, "--storage", url)) for words in commands]
        results = [process.wait().check(4) for process in started]
    for result in results:
        assert "127.0.0.1" in result.err
        assert "cannot be reached" in result.err
        assert "refused" in result.err
        assert "Traceback" not in result.err
        assert result.out == ""


def test_names_that_are_not_there_end_with_exit_3(place: Workplace) -> None:
    place.look("create", place.study("digits").name).check()
    assert "did you mean 'digits'" in place.hpo("show", "digit").check(3).err
    for command in ("trials", "best", "report", "audit", "worker", "pause", "evaluate", "workers"):
        result = place.look(command, "zebra").check(3)
        assert "no study named zebra" in result.err
        assert result.out == ""
    assert "no trial 99" in place.look("trial", "digits/99").check(3).err
    assert "STUDY/NUMBER" in place.look("trial", "digits").check(2).err
    place.look("enqueue", "zebra", "x=1").check(3)
    place.look("delete", "zebra", "--yes").check(3)
    place.look("export", "zebra", "-o", "z.csv").check(3)


STRANGE_NAMES = ["'; DROP TABLE hpo_study; --", "n" * 600, "../s", "%s"]


@pytest.mark.parametrize("command", [["show"], ["delete", "--yes"]])
def test_a_strange_name_is_only_a_name_that_is_not_there(command: list[str], place: Workplace) -> None:
    place.look("create", place.study("s").name).check()
    for name in STRANGE_NAMES:
        assert "Traceback" not in place.look(*command, "--", name).check(3).err
    assert [row["name"] for row in place.look("ls", "--format", "json").check().json] == ["s"]
