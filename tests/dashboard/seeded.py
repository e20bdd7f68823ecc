"""Small studies written straight into a database, as workers would have left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.storages import get_storage

from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.creation import create
from storage.database.engine import Database
from storage.database.records import KeptFile, StudyRow, TicketState
from storage.files.artifacts import ArtifactStore
from tests.support.shared import Party

HOSTILE = "<img src=x onerror=alert(1)>"
DOT = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c6330683800"
    "0002540171c83163000000000049454e44ae426082"
)
EVALUATION = {
    "split": "validation",
    "task": "classification",
    "samples": 4,
    "metrics": {"accuracy": 0.75},
    "classes": ["cat", HOSTILE],
    "confusion_matrix": [[2, 0], [1, 1]],
    "per_class": [{"class": HOSTILE, "precision": 1.0, "recall": 0.5, "f1": 0.667, "support": 2}],
    "roc": [{"class": "cat", "auc": 0.9, "fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 1.0, 1.0]}],
    "pr": [{"class": "cat", "average_precision": 0.9, "recall": [0.0, 1.0], "precision": [1.0, 0.7]}],
}


def make_spec(name: str = "digits", trials: int = 20, **changes: Any) -> StudySpec:
    """A study of one float, x between 0 and 1."""
    fields: dict[str, Any] = {
        "study": name,
        "objective": "objectives.classifier",
        "direction": "maximize",
        "sampler": {"name": "random", "seed": 0},
        "pruner": {"name": "none"},
        "budget": {"trials": trials},
        "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
        "fixed": {"epochs": 3},
    }
    return StudySpec.model_validate({**fields, **changes})


def seed(database: Database, url: str, folder: Path, name: str = "digits", **changes: Any) -> StudyRow:
    """A study with complete, pruned, failed and running trials, metrics, files, a log, hostile text."""
    row = create(database, make_spec(name, **changes), Settings(storage=url, artifacts=str(folder)))
    party = Party(url, row, name="gpu-box:1")
    for number in range(10):
        claim = party.claim()
        trial = party.start(claim, x=number / 10)
        for epoch in (1, 2, 3):
            value = number / 10 + epoch / 100
            party.writer.report(epoch, value, {"accuracy": value, "train_loss": 1 - value})
        if number == 9:
            get_storage(database.rdb).set_trial_user_attr(trial.id, "note", {"seen": [1, 2]})
        if number == 3:
            party.writer.fail(f"Traceback (most recent call last):\nValueError: {HOSTILE}")
        elif number == 4:
            party.writer.deliver(TicketState.PRUNED, None)
        else:
            if number == 9:
                _keep(party, row, trial.number, "evaluation.json", json.dumps(EVALUATION).encode())
                _keep(party, row, trial.number, "page.html", b"<script>alert(1)</script>")
                _keep(party, row, trial.number, "drawn.png", DOT)
                _keep(party, row, trial.number, "wrong.csv", f'digit,seen\n8,"{HOSTILE}, 9"\n'.encode())
                _keep(party, row, trial.number, "steps.jsonl", b'{"a": 1}\n{"a": [2], "b": "c"}\n')
                _keep(party, row, trial.number, "evil.png", b"<svg><script>alert(1)</script></svg>")
            party.complete(number / 10)
    running, trial = party.begin()
    party.writer.report(1, 0.5, {"accuracy": 0.5})
    assert running.lease.attempt == 1
    party.close()
    return row


def _keep(party: Party, row: StudyRow, number: int, name: str, content: bytes) -> None:
    from storage.files import checkpoints

    store = ArtifactStore(row.artifacts)
    folder = f"{checkpoints.trial_key(row.uid, row.name, number)}/1"
    store.put(f"{folder}/log.txt", f"epoch 1\n{HOSTILE}\n".encode())
    digest = store.put(f"{folder}/{name}", content)
    party.writer.keep_file(row.id, KeptFile(name, f"{folder}/{name}", digest, len(content)))
