"""The trials a process knows by increments are those a full read finds, and what was handed out stays."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage.database.engine import Database
from storage.database.optuna_tables import trials as optuna_trials
from storage.database.records import StudyRow, TicketState
from storage.history.known import KnownTrials
from storage.queue.optuna_rows import DIVERGED
from tests.support.shared import Opener, let_expire, make_study

INF, NAN = float("inf"), float("nan")
SPACE = {
    "lr": FloatDistribution(1e-4, 0.3, log=True),
    "drop": FloatDistribution(0.0, 0.5, step=0.25),
    "hidden": IntDistribution(16, 256, log=True),
    "layers": IntDistribution(1, 9, step=2),
    "opt": CategoricalDistribution(["sgd", None, True, 3, 0.5]),
    "momentum": FloatDistribution(0.0, 0.99),
}
POINT = {"opt": None, "lr": 0.01, "drop": 0.25, "hidden": 64, "layers": 3}


def told(trial: FrozenTrial) -> Any:
    """Everything of a trial, comparable where there are NaNs; parameters in their order."""
    fields = copy.copy(vars(trial))
    fields["_params"] = list(trial.params.items())
    for name in ("intermediate_values", "_user_attrs", "_system_attrs"):
        fields[name] = sorted(fields[name].items())
    return repr(sorted(fields.items()))


def stored(database: Database, study: StudyRow) -> list[Any]:
    """What Optuna reads; of trials that have not ended without their reports."""
    found = database.rdb.get_all_trials(study.optuna_study_id)
    for trial in found:
        if not trial.state.is_finished():
            trial.intermediate_values = {}
    return [told(trial) for trial in found]


def shown(known: KnownTrials) -> list[Any]:
    return [told(trial) for trial in known.trials()]


def refreshed(known: KnownTrials, database: Database, **what: bool) -> KnownTrials:
    database.read(lambda connection: known.refresh(connection, **what))
    return known


def new(database: Database, study: StudyRow) -> KnownTrials:
    return refreshed(KnownTrials(study.optuna_study_id), database)


def plain(database: Database, study: StudyRow) -> optuna.Study:
    """The study as plain Optuna opens it."""
    return optuna.load_study(study_name=study.name, storage=database.rdb)


def finished(state: TrialState, **fields: Any) -> FrozenTrial:
    point = fields.pop("point", POINT)
    dists = {name: SPACE[name] for name in point}
    return create_trial(state=state, params=point, distributions=dists, **fields)


def fill(study: optuna.Study) -> None:
    """A trial of every kind."""
    study.add_trial(finished(TrialState.COMPLETE, value=0.5, intermediate_values={1: 0.25, 2: NAN, 10: INF}))
    study.add_trial(
        finished(
            TrialState.COMPLETE,
            value=-INF,
            point={**POINT, "opt": True, "momentum": 0.9},
            user_attrs={"note": ["a", {"b": None}], "alpha": 1},
            system_attrs={"constraints:memory": -1.0, "nsga2:generation": 3},
        )
    )
    study.add_trial(finished(TrialState.PRUNED, value=0.1, intermediate_values={3: -INF, 1: 0.1}))
    study.add_trial(finished(TrialState.FAIL, intermediate_values={1: NAN}))
    study.add_trial(finished(TrialState.FAIL, system_attrs={DIVERGED: True, "completed_rung_0": NAN}))
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=INF))
    running = study.ask(SPACE)
    running.report(1.0, 1)
    running.set_user_attr("who", "else")
    study.enqueue_trial({"lr": 0.1}, user_attrs={"asked": "first"})


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        sent.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def test_a_history_is_known_as_optuna_reads_it(database: Database) -> None:
    """Values and types, order of parameters, named numbers, local times."""
    study = make_study(database)
    fill(plain(database, study))
    other = make_study(database, name="other")
    fill(plain(database, other))
    assert shown(new(database, study)) == stored(database, study)
    assert shown(new(database, other)) == stored(database, other)


def test_every_value_of_several_directions_is_known(database: Database) -> None:
    study = make_study(database, directions=["maximize", "minimize"])
    plain(database, study).add_trial(finished(TrialState.COMPLETE, values=[INF, 0.5]))
    known = new(database, study)
    assert shown(known) == stored(database, study)
    assert known.trials()[0].values == [INF, 0.5]


def test_more_trials_than_one_statement_names_are_known(database: Database) -> None:
    study = make_study(database)
    row = {"study_id": study.optuna_study_id, "state": "FAIL"}
    rows = [{**row, "number": number} for number in range(1203)]
    database.write(lambda connection: connection.execute(sa.insert(optuna_trials), rows) and None)
    known = new(database, study)
    assert [trial.number for trial in known.trials()] == list(range(1203))
    assert refreshed(known, database).since(1203) == (1203, [])


def test_trials_stored_alike_share_their_distributions(database: Database) -> None:
    study = make_study(database)
    for _ in range(2):
        plain(database, study).add_trial(finished(TrialState.COMPLETE, value=0.5))
    one, two = new(database, study).trials()
    assert all(one.distributions[name] is two.distributions[name] for name in POINT)


def test_increments_lead_to_what_a_full_read_finds(database: Database, party: Opener) -> None:
    """After every step, whoever made it: this service's workers, or plain Optuna in the same study."""
    study = make_study(database, 5)
    optunas = plain(database, study)
    known = new(database, study)
    one, two = party(study, "one"), party(study, "two")

    def holds() -> None:
        refreshed(known, database, params=True)
        assert shown(known) == stored(database, study)

    holds()
    fill(optunas)
    holds()
    _, trial = one.begin()
    assert trial.number == 7, "what plain Optuna left waiting"
    holds()
    for step in range(1, 4):
        one.writer.report(step, step / 10, {})
    holds()
    let_expire(database)  # nobody holds it: it runs on to Optuna
    holds()
    again, _ = two.begin()
    assert again.trial_id == trial.id, "taken over: its reports are gone"
    holds()
    two.writer.report(1, 0.7, {})
    two.complete(0.7)
    holds()
    assert known.get(trial.id).intermediate_values == {1: 0.7}
    two.begin()
    two.writer.deliver(TicketState.DIVERGED, None, error="nan")
    one.begin()
    holds()
    two.finish_one(0.3)
    one.writer.fail("ValueError: x")
    holds()
    theirs = optunas.ask()
    theirs.suggest_float("lr", 1e-4, 0.3, log=True)
    holds()
    theirs.suggest_int("hidden", 16, 256, log=True)
    holds()
    assert set(known.get(theirs._trial_id).params) == {"lr", "hidden"}
    optunas.tell(theirs, 0.4)
    holds()
    assert shown(known) == shown(new(database, study))


def test_what_others_add_to_running_trials_is_read_when_it_is_asked_for(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 1)
    _, trial = party(study).begin()
    known = new(database, study)
    before = known.get(trial.id)
    space = SPACE["hidden"]
    database.rdb.set_trial_param(trial.id, "hidden", 64, space)
    assert refreshed(known, database).get(trial.id) is before
    found = refreshed(known, database, params=True).get(trial.id)
    assert (found.params, found.distributions["hidden"]) == ({"x": 0.5, "hidden": 64}, space)
    assert refreshed(known, database, params=True).get(trial.id) is found


def test_a_look_that_finds_nothing_new_is_one_statement(database: Database, party: Opener) -> None:
    """Whether or not trials run; and a trial that ended is never read again."""
    study = make_study(database, 2)
    known = new(database, study)
    one = party(study)
    one.finish_one()
    refreshed(known, database)
    with statements(database) as sent:
        refreshed(known, database)
    assert sum(text.startswith("SELECT") for text in sent) == 1
    one.begin()
    refreshed(known, database)
    with statements(database) as sent:
        refreshed(known, database)
    assert sum(text.startswith("SELECT") for text in sent) == 1
    known.put(known.trials()[-1])
    with statements(database) as sent:
        refreshed(known, database, params=True)
    assert sum(text.startswith("SELECT") for text in sent) == 1, "nothing to ask about one's own"


def test_a_trial_of_this_process_is_left_alone_until_it_has_ended(database: Database, party: Opener) -> None:
    """Its own reports, rungs and parameters are newer than what is stored."""
    study = make_study(database, 2)
    one = party(study)
    _, trial = one.begin()
    known = new(database, study)
    mine = copy.deepcopy(known.get(trial.id))
    mine.intermediate_values[1] = 0.5
    mine.system_attrs["completed_rung_0"] = 0.5
    known.put(mine)
    refreshed(known, database, params=True)
    assert known.get(trial.id).intermediate_values == {1: 0.5}
    assert known.get(trial.id).system_attrs == {"completed_rung_0": 0.5}
    one.complete(0.9)
    refreshed(known, database)
    assert shown(known) == stored(database, study)
    known.put(mine)  # a thread that has not heard of the end
    assert shown(refreshed(known, database)) == stored(database, study)


def test_one_that_was_dropped_is_read_again(database: Database, party: Opener) -> None:
    """Whatever was put of it, and whether it runs on elsewhere or has ended."""
    study = make_study(database, 2)
    one = party(study)
    known = KnownTrials(study.optuna_study_id)
    for end in (lambda: None, lambda: one.complete(0.25)):
        _, trial = one.begin()
        mine = new(database, study).get(trial.id)
        mine.intermediate_values[1] = 0.5
        known.put(mine)
        mine.state, mine.values = TrialState.COMPLETE, [7.0]
        known.put(mine)
        end()
        assert refreshed(known, database).get(trial.id).values == [7.0], "final, as it was put"
        known.drop(trial.id)
        assert shown(refreshed(known, database)) == stored(database, study)
    known.drop(-7)
    assert shown(refreshed(known, database)) == stored(database, study)


def test_trials_are_listed_by_number_though_a_later_one_was_put_before(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 3)
    one, two = party(study, "one"), party(study, "two")
    known = new(database, study)
    _, early = one.begin()
    _, late = two.begin()
    known.put(new(database, study).get(late.id))
    assert [trial.number for trial in known.trials()] == [1]
    with pytest.raises(KeyError):
        known.get(early.id)
    assert [trial.number for trial in refreshed(known, database).trials()] == [0, 1]
    assert shown(known) == stored(database, study)


def test_a_copy_is_kept_by_what_came_since(database: Database, party: Opener) -> None:
    study = make_study(database, 4)
    fill(plain(database, study))
    one = party(study)
    known = KnownTrials(study.optuna_study_id)
    version, theirs = 0, dict[int, FrozenTrial]()
    for step in range(6):
        if step % 2:
            _, trial = one.begin()
            mine = new(database, study).get(trial.id)
            known.put(mine)
            mine.intermediate_values[1] = 0.5
            known.put(mine)
        elif step:
            one.complete()
        refreshed(known, database)
        version, newer = known.since(version)
        assert len(newer) == (8 if step == 0 else 1)
        theirs |= {trial._trial_id: trial for trial in newer}
        assert list(theirs.values()) == known.trials()
    assert known.since(version) == (version, [])
    assert len(known.since(0)[1]) == len(known.trials())


def test_nothing_that_was_handed_out_changes_later(database: Database, party: Opener) -> None:
    """Neither by a refresh, nor by what the process that put it does with its trial."""
    study = make_study(database, 3)
    one, two = party(study, "one"), party(study, "two")
    _, mine = one.begin()
    _, other = two.begin()
    known = new(database, study)
    own = copy.deepcopy(known.get(mine.id))
    known.put(own)
    listed = known.trials()
    before = [told(trial) for trial in listed]
    own.intermediate_values[1] = 0.5
    own.params["y"] = 1.0
    own.system_attrs["completed_rung_0"] = 0.5
    own.user_attrs["note"] = "x"
    assert [told(trial) for trial in known.trials()] == before
    known.put(own)
    database.rdb.set_trial_system_attr(other.id, "completed_rung_0", 0.5)
    database.rdb.set_trial_param(other.id, "hidden", 64, SPACE["hidden"])
    refreshed(known, database, params=True)
    two.complete()
    refreshed(known, database)
    assert [told(trial) for trial in listed] == before
    assert [told(trial) for trial in known.trials()] != before
    listed.clear()
    assert len(known.trials()) == 2


@pytest.mark.parametrize("ended", [True, False])
def test_what_is_put_while_a_refresh_reads_stays(database: Database, party: Opener, ended: bool) -> None:
    """The refresh saw the trial as it was before: it may not bring that back."""
    study = make_study(database, 1)
    _, trial = party(study).begin()
    known = KnownTrials(study.optuna_study_id)
    mine = new(database, study).get(trial.id)
    mine.intermediate_values[1] = 0.5
    if ended:
        mine.state, mine.values = TrialState.COMPLETE, [0.5]
    put: list[int] = []

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "trial_params" in statement and not put:
            put.append(1)
            known.put(mine)

    sa.event.listen(database.engine, "before_cursor_execute", meanwhile)
    refreshed(known, database)
    sa.event.remove(database.engine, "before_cursor_execute", meanwhile)
    assert put
    assert told(known.get(trial.id)) == told(mine)


@pytest.mark.parametrize("dropped", [True, False])
def test_a_trial_taken_or_dropped_while_a_refresh_reads_its_parameters_stays_so(
    database: Database, party: Opener, dropped: bool
) -> None:
    """What the refresh read is older: one's own is kept as it was put, a dropped one is read once more."""
    study = make_study(database, 1)
    _, trial = party(study).begin()
    known = new(database, study)
    mine = copy.deepcopy(known.get(trial.id))
    mine.intermediate_values[1] = 0.5
    database.rdb.set_trial_param(trial.id, "hidden", 64, SPACE["hidden"])
    read: list[int] = []

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "FROM trial_params" in statement and not read:
            read.append(1)
            known.put(mine)
            if dropped:
                known.drop(trial.id)

    sa.event.listen(database.engine, "after_cursor_execute", meanwhile)
    refreshed(known, database, params=True)
    sa.event.remove(database.engine, "after_cursor_execute", meanwhile)
    assert read
    assert told(known.get(trial.id)) == told(mine)
    database.rdb.set_trial_system_attr(trial.id, "noted", 0.2)
    refreshed(known, database)
    assert shown(known) == (stored(database, study) if dropped else [told(mine)])


def test_several_threads_refresh_at_once(database: Database, party: Opener) -> None:
    """None sees a trial that had ended run again, and all of them together miss nothing."""
    study = make_study(database, 24)
    fill(plain(database, study))
    known = KnownTrials(study.optuna_study_id)
    parties = [party(study, "one"), party(study, "two")]
    over = threading.Event()

    def look() -> int:
        looks, ended = 0, set[int]()
        while not over.is_set() or not looks:
            refreshed(known, database, params=looks % 3 == 0)
            listed = known.trials()
            assert [trial.number for trial in listed] == sorted(trial.number for trial in listed)
            now = {trial.number for trial in listed if trial.state.is_finished()}
            assert ended <= now
            ended, looks = now, looks + 1
        return looks

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        try:
            for number in range(24):
                one = parties[number % 2]
                _, trial = one.begin()
                if number % 3 == 0:
                    known.put(new(database, study).get(trial.id))
                one.complete(float(number))
        finally:
            over.set()
        assert all(future.result() for future in looking)
    assert shown(refreshed(known, database)) == stored(database, study)
