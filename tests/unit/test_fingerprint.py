"""What counts as a study's code."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from hpo.fingerprint import differences, fingerprint, other_hpo
from hpo.objective import load_objective
from hpo.spec.objective import parse_objective


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text("def objective(trial):\n    return 0.0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_the_command_that_started_a_process_is_no_part_of_the_code(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be started by another command, from another directory, and runs the same code."""
    started_by = ModuleType(name)
    started_by.__file__ = str(folder / "start.py")
    (folder / "start.py").write_text("")
    objective = load_objective(parse_objective("mine.py"), folder)
    before = fingerprint(objective, folder)
    monkeypatch.setitem(sys.modules, name, started_by)
    assert fingerprint(objective, folder) == before
    assert list(before["sources"]) == ["mine"]


def test_another_version_of_hpo_is_said_and_is_no_other_code(folder: Path) -> None:
    """A study is finished after an upgrade; torch and Optuna decide results, and are refused."""
    here = fingerprint(load_objective(parse_objective("mine.py"), folder), folder)
    older = {**here, "versions": {**here["versions"], "hpo": "0.0.1"}}
    assert differences(here, older) == []
    assert other_hpo(here, older) == [f"hpo {here['versions']['hpo']} here, 0.0.1 there"]
    assert other_hpo(here, here) == []
    assert differences(here, {**here, "versions": {**here["versions"], "torch": "1.0"}})
