"""A setting that diverges ends its trial in a state of its own: not tried again, and nobody's fault."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.dashboard.live import LiveStudy, outline
from hpo.dashboard.table import Wish, list_trials
from hpo.errors import UserError
from hpo.search.diverged import is_diverged, is_worthless
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import answers, steering
from hpo.studies.importing import derived_spec, import_study
from hpo.studies.reading import history
from hpo.studies.sources import read_csv, read_optuna
from storage.database.engine import Database
from storage.database.records import KeptFile, StudyState, TicketState, WorkerState
from storage.database.tables import worker
from storage.files import kept_files
from storage.history.audit import audit
from storage.queue import tickets
from storage.queue.blame import BAD_START
from storage.queue.optuna_rows import DIVERGED
from tests.support.shared import (
    Opener,
    Party,
    attempts_of,
    lose,
    make_study,
    state_of,
    ticket_row,
    ticket_states,
)

WHY = "the objective returned nan: this setting diverged"
SPEC = {"directions": ["maximize"], "objective": "m", "sampler": {"name": "tpe"}, "pruner": {"name": "none"}}


def diverge(one: Party) -> None:
    """Deliver it for the current attempt."""
    one.writer.deliver(TicketState.DIVERGED, None, error=WHY)


def test_it_is_spent_budget_and_not_tried_again(database: Database, party: Opener) -> None:
    """Whatever `retry` allows: the setting would do so again."""
    study = make_study(database, 2, retry_failed=3)
    one = party(study)
    claim, trial = one.begin()
    diverge(one)
    assert ticket_row(database, claim.lease).state == "diverged"
    assert attempts_of(database, claim.lease) == ["diverged"]
    found = optuna.load_study(study_name=study.name, storage=database.rdb).trials[trial.number]
    assert found.state is TrialState.FAIL, "plain Optuna knows the state"
    assert found.system_attrs == {DIVERGED: True}
    one.finish_one()
    assert state_of(database, study) is StudyState.FINISHED
    found_now = database.read(lambda c: tickets.counts(c, study.id))
    assert (found_now.complete, found_now.diverged, found_now.failed, found_now.ended) == (1, 1, 0, 2)
    checked = database.read(lambda c: audit(c, study))
    assert checked.holds
    assert (checked.results, checked.diverged, checked.failed, checked.missing) == (1, 1, 0, 0)


def test_it_is_nobodys_fault(database: Database, party: Opener) -> None:
    """As many as would quarantine a worker at its start leave it as it was, neither good nor bad."""
    study = make_study(database, BAD_START + 3)
    one = party(study)
    for _ in range(BAD_START + 1):
        one.begin()
        diverge(one)
    standing = database.read(
        lambda c: c.execute(
            sa.select(worker.c.state, worker.c.good_attempts, worker.c.bad_attempts).where(
                worker.c.id == one.id
            )
        ).one()
    )
    assert tuple(standing) == (WorkerState.ACTIVE, 0, 0)
    one.finish_one()


def test_what_failed_here_and_diverged_there_blames_no_worker(database: Database, party: Opener) -> None:
    study = make_study(database, 8, retry_failed=1)
    here, there = party(study, "here"), party(study, "there")
    for _ in range(4):
        failed = here.claim()
        here.start(failed)
        here.writer.fail("RuntimeError: somehow")
        again = there.claim()
        assert again.number == failed.number
        there.start(again)
        diverge(there)
    state = database.read(lambda c: c.scalar(sa.select(worker.c.state).where(worker.c.id == here.id)))
    assert state == WorkerState.ACTIVE
    assert ticket_states(database, study)[:4] == ["diverged"] * 4


def test_all_failed_are_queued_again_without_it_and_its_own_number_queues_it(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 2, spec=SPEC)
    one = party(study)
    one.begin()
    diverge(one)
    one.begin()
    one.writer.fail("ValueError: x")
    assert steering.retry_failed(database, study) == 1
    assert ticket_states(database, study) == ["diverged", "queued"]
    steering.retry_trial(database, study, 0)
    assert ticket_states(database, study) == ["queued", "queued"]
    with pytest.raises(UserError, match="neither failed nor diverged"):
        steering.retry_trial(database, study, 0)
    assert one.finish_one().retry_of == 0
    assert [trial.state for trial in history(database, study.name).trials] == [
        "diverged",
        "failed",
        "complete",
    ]


def test_a_setting_that_failed_is_worse_than_any_to_samplers_until_it_is_tried_again(
    database: Database, party: Opener
) -> None:
    """One whose workers were lost is not: that says nothing of it. Pruners mind what diverged alone."""
    study = make_study(database, 2, retry_failed=1, retry_lost=0, spec=SPEC)
    one = party(study)
    lost, _ = one.begin()
    lose(database, lost.lease)
    for expected in ([False, False], [False, True]):
        one.begin()
        one.writer.fail("OutOfMemoryError: CUDA out of memory")
        trials = optuna.load_study(study_name=study.name, storage=database.rdb).trials
        assert [is_worthless(trial) for trial in trials] == expected
    assert not any(is_diverged(trial) for trial in trials)
    steering.retry_failed(database, study)
    trials = optuna.load_study(study_name=study.name, storage=database.rdb).trials
    assert [is_worthless(trial) for trial in trials] == [False, False]


def test_every_reader_shows_it_by_its_name(database: Database, party: Opener) -> None:
    study = make_study(database, 4, spec=SPEC)
    one = party(study)
    one.begin()
    diverge(one)
    one.begin()
    one.writer.fail("ValueError: x")
    one.finish_one()
    whole = history(database, study.name)
    states = ["diverged", "failed", "complete"]
    assert [trial.state for trial in whole.trials] == states
    assert whole.trials[0].error == WHY
    assert whole.trials[0].finished is not None
    assert whole.trials[0].values is None
    assert [trial.state for trial in outline(database, study).trials] == states
    live = LiveStudy(database, study)
    page = list_trials(live, Wish(sort="number"))
    assert [(line.state, line.error) for line in page.trials[:1]] == [("diverged", WHY)]
    for state in ("diverged", "failed"):
        assert [line.state for line in list_trials(live, Wish(f"state={state}")).trials] == [state]
    shown = database.read(answers.study, study.name).trials
    assert (shown.diverged, shown.failed, shown.complete, shown.waiting) == (1, 1, 1, 1)


def test_it_keeps_no_weights_however_many_the_study_keeps(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    _, trial = one.begin()
    one.writer.keep_file(study.id, KeptFile(kept_files.MODEL, "a/model", "0" * 64, 1))
    one.writer.keep_file(study.id, KeptFile("plot.png", "a/plot", "1" * 64, 1))
    diverge(one)
    assert database.read(lambda c: kept_files.names_of(c, trial.id)) == {"plot.png"}
    assert [path for _, path in database.write(lambda c: kept_files.removable(c, study.id))] == ["a/model"]


def test_its_end_counts_once_and_a_stale_attempt_changes_nothing(database: Database, party: Opener) -> None:
    """Told twice, because the answer to the first was lost, it is told once."""
    study = make_study(database, 1)
    one = party(study)
    claim, _ = one.begin()
    diverge(one)
    diverge(one)
    assert attempts_of(database, claim.lease) == ["diverged"]


def test_it_comes_over_with_an_import(database: Database, party: Opener, tmp_path: Path) -> None:
    """From a table, and from an Optuna study that was one of ours."""
    table = tmp_path / "table.csv"
    table.write_text("x,value,state\n0.5,1.0,complete\n0.9,,diverged\n0.8,,failed\n")
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    base = {"objective": "m", "direction": "maximize", "budget": {"trials": 9}, "space": space}
    made = parse_spec({"study": "taken", **base})
    settings = Settings(artifacts="memory://imported")
    import_study(database, settings, made, read_csv(table, made))
    states = ["complete", "diverged", "failed"]
    found = history(database, "taken")
    assert [trial.state for trial in found.trials] == states
    assert found.trials[1].error == "diverged where it was imported from"
    url = database.url.render_as_string(hide_password=False)
    source = read_optuna(url, "taken")
    again = import_study(database, settings, derived_spec(source, "again", "m")[0], source)
    assert [trial.state for trial in history(database, "again").trials] == states
    assert ticket_states(database, again.row) == states
    assert database.read(lambda c: audit(c, again.row)).holds
