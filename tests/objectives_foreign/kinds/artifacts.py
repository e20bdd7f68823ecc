"""Optuna's own artifact store."""

import tempfile
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

folder = Path(tempfile.mkdtemp())
store = FileSystemArtifactStore(base_path=folder)


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    file = folder / f"model-{trial.number}.txt"
    file.write_text(f"{x}")
    name = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
    with store.open_reader(name) as stream:
        assert stream.read() == f"{x}".encode()
    trial.set_user_attr("optuna", optuna.__version__)
    return x
