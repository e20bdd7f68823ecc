"""A study that version 0.1 left unfinished is upgraded and finished; older workers are refused then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config

from storage.database import migrate
from storage.database.errors import SchemaError
from storage.database.migrate import VERSION_TABLE, open_database
from storage.database.records import NothingToClaim
from storage.queue import leases
from tests.support.claims import claim_next
from tests.support.command import look, run_hpo
from tests.support.pg import PgServer

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"
RESULTS = {0: 0.25, 2: 0.5, 3: 0.625, 4: 0.75}  # x by trial; 1 has failed


@pytest.fixture
def old(storage_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The database as it was left, its files and its objective in this test's directory."""
    backend = sa.make_url(storage_url).get_backend_name()
    shutil.copytree(OLD / "artifacts" / backend, tmp_path / "artifacts")
    shutil.copy(OLD / "walk.py", tmp_path)
    if backend == "sqlite":
        shutil.copy(OLD / "hpo.sqlite", tmp_path / "hpo.db")
    else:
        server: PgServer = request.getfixturevalue("pg_server")
        with server.connect(storage_url) as connection:
            connection.execute((OLD / "postgresql.sql").read_bytes())
    engine = sa.create_engine(storage_url)
    with engine.begin() as connection:
        assert connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) == "0002"
        here = {"artifacts": (tmp_path / "artifacts").as_uri(), "code": code_of_today(connection)}
        connection.execute(sa.text("UPDATE hpo_study SET artifacts = :artifacts, code = :code"), here)
    engine.dispose()
    return storage_url


def code_of_today(connection: sa.Connection) -> str:
    """The study's code as it was pinned, but for the versions of torch and Optuna, whatever they are here."""
    from hpo.fingerprint import versions

    code = json.loads(connection.scalar(sa.text("SELECT code FROM hpo_study")) or "")
    assert code["versions"]["hpo"] == "0.1.0"
    kept = {**versions(), "hpo": "0.1.0-old"}  # whatever version this is: another one
    code["versions"] = {name: kept[name] for name in code["versions"]}
    return json.dumps(code)


def walked(x: float) -> float:
    """What tests/fixtures/v0_1/walk.py computes."""
    way = 0.0
    for epoch in range(1, 7):
        way += x / epoch
    return way


def trial(number: int, where: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = look("trial", f"walk/{number}", "--format", "json", **where).check().json
    return found


def test_a_study_of_the_old_version_is_upgraded_and_finished(old: str, tmp_path: Path) -> None:
    """Its trials go on from their checkpoints, nothing is run twice, and another hpo is said, not refused."""
    where: dict[str, Any] = {"cwd": tmp_path, "env": {"HPO_STORAGE": old}}
    look("db", "upgrade", **where).check()
    database = open_database(old)
    assert database.read(lambda c: migrate._version(c, migrate.VERSION_TABLE)) == migrate.HEAD
    lost = database.write(lambda connection: leases.reap_expired(connection, leases.Sight()))
    assert lost == 1, "the killed worker's; a worker would notice after a lease"
    database.close()
    assert trial(0, where)["values"] == [walked(0.25)]

    run_hpo("worker", "walk", "--runners", "1", timeout=150, **where).check()

    audit = look("audit", "walk", "--format", "json", **where).check().json
    assert audit["holds"], audit
    assert (audit["tickets"], audit["missing"], audit["duplicates"], audit["failed"]) == (8, 0, 0, 1)
    trials = look("trials", "walk", "--format", "json", **where).check().json
    assert [row["state"] for row in trials] == ["complete", "failed"] + ["complete"] * 6
    for number, x in RESULTS.items():
        assert trials[number]["values"] == [walked(x)], "bit for bit as without an interruption"
    resumed = {
        number: [a["resumed_from"] for a in trial(number, where)["attempts_list"]] for number in (3, 4)
    }
    assert resumed == {3: [None, 2, 4], 4: [None, 2]}
    log = next((tmp_path / "artifacts").glob("walk-*/3/3/log.txt")).read_text()
    assert log.split("\n")[:2] == ["epoch 5", "epoch 6"]
    marks = [row["user_attrs"].get("code_mismatch") for row in trials]
    assert marks[:3] == [None] * 3
    assert all(len(mark) == 1 and mark[0].endswith(" here, 0.1.0-old there") for mark in marks[3:])


def test_a_worker_that_the_upgrade_finds_at_work_is_sent_away_with_a_sentence(old: str) -> None:
    """It is asked to leave by what every version looks at; what it runs is still its own."""
    database = open_database(old)
    worker = database.read(
        lambda connection: connection.scalar(
            sa.text("SELECT worker_id FROM hpo_ticket WHERE state = 'running'")
        )
    )
    other_runner = 7
    told = database.write(lambda connection: claim_next(connection, 1, worker, other_runner, "cpu", 15.0))
    database.close()
    assert isinstance(told, NothingToClaim)
    assert told.ended
    assert "upgrade hpo on this machine" in told.why


def test_who_knows_only_older_versions_is_refused_with_a_sentence(
    old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every version since 0.1 does: the newest migration is taken away from what it knows."""
    open_database(old).close()
    newest = migrate.HEAD
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(migrate.__file__).parent / "migrations", scripts)
    for file in (scripts / "versions").glob(f"{newest}_*.py"):
        file.unlink()
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    monkeypatch.setattr(migrate, "_config", lambda: config)
    monkeypatch.setattr(migrate, "HEAD", "0002")

    with pytest.raises(
        SchemaError, match=rf"newer version of hpo \(schema {newest}; .*Upgrade hpo on this machine"
    ):
        open_database(old)
    refused = look("worker", "walk", "--runners", "1", cwd=tmp_path, env={"HPO_STORAGE": old})
    assert refused.code == 4
    assert "Upgrade hpo on this machine" in refused.err
