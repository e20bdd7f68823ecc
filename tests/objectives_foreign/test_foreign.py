"""Objectives as people bring them from Optuna end here as they end there.

One test, so that one command serves them all with one runner; plain Optuna, in memory, then runs the same
points. `make objectives` has two runners, and both databases.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.objectives_foreign.kinds import KINDS, comparable, lay_out, ours, theirs
from tests.support.command import look, run_hpo


@pytest.mark.timeout(600)  # 34 runners and a hundred interpreters that the objectives start
def test_foreign_objectives_end_as_in_plain_optuna(tmp_path: Path) -> None:
    """A worker serves the studies in turn: as `hpo run` does, without the imports of as many commands."""
    lay_out(tmp_path)
    for kind in KINDS:
        look("create", f"{kind.name}.yaml", cwd=tmp_path).check()
    ran = run_hpo("worker", "--runners", "1", "--idle-timeout", "1s", cwd=tmp_path, timeout=300)
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    here = {kind: ours(url, kind) for kind in KINDS}
    assert {kind.name: len(here[kind]) for kind in KINDS} == {k.name: k.trials for k in KINDS}, ran
    there = theirs(tmp_path, {kind: [trial["params"] for trial in here[kind]] for kind in KINDS})
    for kind in KINDS:
        assert comparable(here[kind]) == comparable(there[kind.name]), f"{kind.name}\n{ran}"
