"""The winner: measured on the test set, once, the only time anything sees it; written for others to use."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.errors import HpoError, NotFoundError, UserError
from hpo.files import write_whole
from hpo.objective import load_objective
from hpo.search.draws import training_seed
from hpo.spec import StudySpec, resolve
from hpo.studies import reading
from hpo.studies.steering import note
from hpo.weights import dump_state, read_state
from objectives.errors import TrainingError
from objectives.standalone import LocalTrial
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow
from storage.files import checkpoints, kept_files
from storage.files.artifacts import ArtifactStore
from storage.history.records import StudyHistory, TrialRecord, why_no_best
from storage.queue import repeats, studies


def evaluate(
    database: Database, row: StudyRow, code: Path, *, again: bool = False
) -> Mapping[str, Any] | None:
    """The winner's evaluation on the test set, measured now or earlier; stored with the study.

    None when the objective's module has no `evaluate`, or it is a command. A winner is measured once;
    `again` measures anew (the same weights on the same data).

    Raises:
        UserError: there are several directions.
        HpoError: no feasible trial is complete, the winner's weights are not there, or `evaluate` raised.
    """
    spec = StudySpec.model_validate(row.spec)
    if spec.objective_path is None:
        return None
    history = reading.history(database, row.name, evaluated=False)
    winner = _chosen(history)
    if history.test_evaluation is not None and not again:
        return history.test_evaluation
    if spec.confirm is not None and not history.is_confirmed:
        raise UserError(
            f"{row.name} confirms its winner before the test set is seen (`confirm` in its study file): "
            f"`hpo confirm {row.name}` does, and measures it then"
        )
    use_threads(spec.threads)
    objective = load_objective(spec.objective_path, code)
    if objective.evaluate is None:
        return None
    trial, state = _with_weights(database, row, spec, winner)
    try:
        found = dict(objective.evaluate(trial, state))
        json.dumps(found)
    except (Exception, SystemExit) as error:
        raise HpoError(
            f"evaluate of {spec.objective} failed on trial {winner.number}: {type(error).__name__}: {error}"
        ) from error
    result = {"trial": winner.number, "evaluation": found}

    def verb(connection: Transaction) -> None:
        studies.remember(connection, row.id, "test_evaluation", result)
        note(connection, database, row, "evaluate", trial=winner.number)

    database.write_once(verb)
    return found


def export(database: Database, row: StudyRow, code: Path, out: Path, *, refit: bool = False) -> int:
    """Write the winner to `out`: its weights (.pt), or what its objective's `export` makes of them.

    `refit` trains it again first, as its objective's `refit` says: on all but the test data.

    Returns:
        The winner's number.

    Raises:
        UserError: the objective has no such function beside it, or there are several directions.
        HpoError: there is no winner, its weights are not there, or the function raised.
    """
    spec = StudySpec.model_validate(row.spec)
    winner = _chosen(reading.history(database, row.name, evaluated=False))
    use_threads(spec.threads)
    path = spec.objective_path
    objective = None if path is None else load_objective(path, code)
    weights = out.suffix == ".pt"
    for name, needed in (("export", not weights), ("refit", refit)):
        if needed and (objective is None or getattr(objective, name) is None):
            takes = "(trial, checkpoint, path)" if name == "export" else "(config, training)"
            raise UserError(f"the objective {row.spec['objective']} has no {name}{takes} beside it")
    trial, state = _with_weights(database, row, spec, winner)
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, f"model{out.suffix}")
        try:
            if refit and objective is not None and objective.refit is not None:
                config = dict(objective.refit(trial.config, trial.user_attrs.get("training") or {}))
                again = LocalTrial(config, trial.seed, trial.device)
                objective.call(again)
                trial = _handed(row, winner, config)
                state = read_state(again.read_artifact(kept_files.MODEL))
            if objective is not None and objective.export is not None and not weights:
                objective.export(trial, state, made)
        except TrainingError as error:
            raise UserError(str(error)) from error
        except (Exception, SystemExit) as error:
            raise HpoError(
                f"{spec.objective} failed on trial {winner.number}: {type(error).__name__}: {error}"
            ) from error
        write_whole(out, dump_state(state) if weights else made.read_bytes(), "model")
    return winner.number


def _chosen(history: StudyHistory) -> TrialRecord:
    if len(history.directions) > 1:
        raise UserError("a study with several directions has no single winner")
    if history.chosen is None:
        raise HpoError(f"{history.name} {why_no_best(history)}; so there is no winner")
    return history.chosen


def _with_weights(
    database: Database, row: StudyRow, spec: StudySpec, winner: TrialRecord
) -> tuple[LocalTrial, Any]:
    """What the functions beside an objective are handed of the winner, and its state."""
    kept = kept_weights(database, row, winner)
    if kept is None:
        raise HpoError(
            f"trial {winner.number} left neither {kept_files.MODEL} nor a checkpoint in {row.artifacts}, "
            "so it cannot be evaluated here"
        )
    config = resolve(spec, winner.params) | ({"seeds": kept[1]} if kept[1] > 1 else {})
    return _handed(row, winner, config), read_state(kept[0])


def _handed(row: StudyRow, winner: TrialRecord, config: dict[str, Any]) -> LocalTrial:
    """The winner as a trial of which nothing is stored: what is reported and logged goes nowhere."""
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    seed = training_seed(row.seed, winner.ticket)
    trial = LocalTrial(config, seed, device, number=winner.number, attempt=winner.attempts)
    trial.params, trial.user_attrs = dict(winner.params), dict(winner.user_attrs)
    return trial


def kept_weights(database: Database, row: StudyRow, trial: TrialRecord) -> tuple[bytes, int] | None:
    """The trial's `model.pt`, else its newest whole checkpoint, else what a repeat of it kept; and of how
    many trainings with other seeds these are the weights, 1: its own. None when none can be read here.

    Raises:
        ArtifactError: the artifact store is away, or cannot be used from here.
    """
    for name in kept_files.WEIGHTS:
        content = reading.read_artifact(database, row, trial.number, name)
        if content is not None:
            return content, 1
    store = ArtifactStore(row.artifacts)
    saved = checkpoints.newest(store, checkpoints.trial_key(row.uid, row.first_name, trial.number))
    if saved is not None:
        return saved.content, 1
    again = database.read(repeats.weights_of, row.id, trial.number)
    return None if again is None else (store.get(again.path, again.sha256), again.seeds)


def weights_of(database: Database, row: StudyRow, history: StudyHistory, number: int | None = None) -> Any:
    """The weights that a trial kept, tensors on the CPU; the best trial's without a number.

    Raises:
        HpoError: there is no best one, or it kept none that can be read here.
        NotFoundError: there is no such trial.
    """
    trials = {trial.number: trial for trial in history.trials}
    chosen = history.best if number is None else trials.get(number)
    if chosen is None and number is None:
        raise HpoError(f"{row.name} has no best trial: say which one's weights, by its number")
    if chosen is None:
        raise NotFoundError(f"{row.name} has no trial {number}")
    kept = kept_weights(database, row, chosen)
    if kept is None:
        raise HpoError(
            f"trial {chosen.number} of {row.name} kept no weights: trial.checkpoint.save(state, step) keeps "
            "them, and `keep` in the study file says of how many trials"
        )
    return read_state(kept[0])


def use_threads(threads: int) -> None:
    """As many threads as the trials used: more would change the last bits."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
