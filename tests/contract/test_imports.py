"""Commands that look or steer import what they need: a person waits for nothing else."""

from __future__ import annotations

import subprocess
import sys

from storage.database.engine import Database
from storage.database.records import KeptFile
from tests.support.command import hpo_environment
from tests.support.shared import Opener, make_study

SPEC = {
    "objective": "objectives.classifier",
    "directions": ["maximize"],
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
}
UNNEEDED = ("torch", "optuna", "alembic", "fsspec", "pandas", "plotly", "psutil", "hpo.spec.model")
_RUNNER = """
import sys
import hpo.runner.nursery, hpo.runner.process, hpo.runner.session
assert not {"sqlalchemy", "alembic", "storage.database.engine"} & set(sys.modules)
"""
_LOOK = """
import sys
from hpo.cli import run
for command in ("ls", "show study", "trials study", "pause study", "workers", "audit study"):
    code = run(command.split())
    loaded = [name for name in sys.argv[1:] if name in sys.modules]
    assert (code, loaded) == (0, []), (command, code, loaded)
"""


def test_looking_and_steering_import_neither_optuna_nor_torch(
    url: str, database: Database, party: Opener
) -> None:
    """`ls`, `show`, `trials`, `pause`, `workers`, `audit` of a study with trials, on both databases."""
    study = make_study(database, spec=SPEC, artifacts="file:///nowhere")
    worker = party(study)
    worker.begin()
    worker.writer.keep_file(study.id, KeptFile("evaluation.json", "study/evaluation.json", "0" * 64, 2))
    worker.complete(0.5)
    environment = hpo_environment({"HPO_STORAGE": url})
    unneeded = [*UNNEEDED, *(["sqlalchemy.dialects.postgresql"] if url.startswith("sqlite") else [])]
    found = subprocess.run(
        [sys.executable, "-c", _LOOK, *unneeded], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert "0.5" in found.stdout


def test_a_runner_loads_nothing_that_speaks_to_a_database() -> None:
    """Each would pay for it at its start, and in memory."""
    found = subprocess.run([sys.executable, "-c", _RUNNER], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
