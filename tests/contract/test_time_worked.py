"""A trial's time is time worked: the sum of its attempts, wherever it is read."""

from __future__ import annotations

import pytest

from hpo.dashboard.live import LiveStudy
from hpo.dashboard.table import Wish, list_trials
from hpo.studies import answers
from hpo.studies.reading import history
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.history.attempts import attempts_of
from tests.support.clock import shift
from tests.support.shared import LEASE, Opener, let_expire, make_study

SPEC = {"directions": ["maximize"], "space": {}}


def told(database: Database, study: StudyRow) -> list[float | None]:
    """The first trial's time as each reader tells it: the table, the whole history, the one in memory."""
    page = list_trials(LiveStudy(database, study), Wish(sort="number"))
    return [
        page.trials[0].seconds_until(page.now),
        history(database, study.name).trials[0].seconds,
        LiveStudy(database, study).refresh().trials[0].seconds,
    ]


def test_the_wait_between_two_attempts_is_not_time_worked(database: Database, party: Opener) -> None:
    study = make_study(database, 1, spec=SPEC, retry_failed=1)
    one = party(study)
    for pause in (60, 0):
        one.begin()
        shift(5)
        one.writer.fail("ValueError: no")
        assert told(database, study) == [pytest.approx(5 if pause else 10)] * 3
        shift(pause)
    listed = database.read(lambda c: attempts_of(c, study, 0))
    assert [answers.attempt(item).seconds for item in listed] == [pytest.approx(5)] * 2
    first, second = history(database, study.name).trials[0].spans
    assert first.ended is not None
    assert (second.started - first.ended).total_seconds() == pytest.approx(60)


def test_an_attempt_that_is_buried_hours_later_worked_until_its_lease_ended(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 1, spec=SPEC)
    party(study).begin()
    shift(8 * 3600)
    assert let_expire(database) == 1
    assert told(database, study) == [pytest.approx(LEASE)] * 3


def test_the_table_counts_what_runs_and_sorts_by_time_worked(database: Database, party: Opener) -> None:
    """A trial with a long wait between two short attempts comes behind one that worked longer."""
    study = make_study(database, 2, spec=SPEC, retry_failed=1)
    one = party(study)
    one.begin()
    shift(20)
    one.complete()
    for pause in (60, 0):
        one.begin()
        if pause:
            one.writer.fail("ValueError: no")
        shift(pause)
    shift(5)
    page = list_trials(LiveStudy(database, study), Wish(sort="-seconds"))
    assert [(trial.number, trial.seconds_until(page.now), trial.state) for trial in page.trials] == [
        (0, pytest.approx(20), "complete"),
        (1, pytest.approx(5), "running"),
    ]
