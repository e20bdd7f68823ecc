"""Settings come from the environment and refuse nonsense early."""

from __future__ import annotations

import pytest

from hpo.errors import UserError
from hpo.settings import Settings


def test_an_argument_wins_over_the_environment_and_that_over_the_default(monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    assert Settings.from_environment().storage == "sqlite:///hpo.db"
    monkeypatch.setenv("HPO_STORAGE", "sqlite:///a.db")
    assert Settings.from_environment().storage == "sqlite:///a.db"
    assert Settings.from_environment("sqlite:///b.db").storage == "sqlite:///b.db"


@pytest.mark.parametrize(("name", "value"), [("HPO_LEASE", "soon"), ("HPO_LEASE", "0"), ("HPO_GRACE", "-1")])
def test_a_variable_that_makes_no_sense_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=name):
        Settings.from_environment()


def test_the_heartbeat_is_a_third_of_the_lease():
    assert Settings(lease=15.0).heartbeat == 5.0


def test_artifacts_lie_beside_the_sqlite_file_unless_told_otherwise(tmp_path):
    beside = Settings(storage=f"sqlite:///{tmp_path}/x.db").artifact_url()
    assert beside == (tmp_path / "hpo-artifacts").as_uri()
    assert Settings(artifacts="s3://bucket/hpo").artifact_url() == "s3://bucket/hpo"
    assert Settings(artifacts=str(tmp_path)).artifact_url() == tmp_path.as_uri()
