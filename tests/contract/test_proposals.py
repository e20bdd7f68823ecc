"""A proposed point carries who and why; a share limits how many there are; the report says how they did."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hpo.errors import UserError
from hpo.report.records.summary import summarize
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation, reading
from hpo.studies.why import why
from storage.database.engine import Database
from storage.database.errors import LimitError
from storage.history.trials import Part, read_trial
from tests.contract.test_notices import SPEC as PLAIN
from tests.support.shared import Opener, reopen

SPEC = {**PLAIN, "proposals": "30 %", "enqueue": [{"x": 0.5}]}


def test_a_proposal_is_told_apart_and_those_of_all_are_no_more_than_their_share(
    database: Database, url: str, tmp_path: Path, party: Opener
) -> None:
    row = creation.create(database, parse_spec(SPEC), Settings(artifacts=tmp_path.as_uri()))
    given: list[str] = []

    def propose(who: str) -> None:
        mine = reopen(url).acting_as(who)
        for n in range(1, 4):
            with suppress(LimitError):
                creation.enqueue(mine, row, {"x": n / 100}, why=f"hunch {n}")
                given.append(who)
        mine.close()

    both = [threading.Thread(target=propose, args=(who,)) for who in ("token a", "token b")]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert len(given) == 3, "however many ask at once"
    with pytest.raises(LimitError, match=r"had its 3 proposals: `proposals` .* allows 0.3 of its 10 trials"):
        creation.enqueue(database, row, {"x": 0.1})
    with pytest.raises(UserError, match="why must have 1 to 2000 characters, got 3000"):
        creation.enqueue(database, row, {"x": 0.1}, why="x" * 3000)
    worker = party(row)
    for value in (5.0, 1.0, 2.0, 3.0, 7.0, 9.0):
        worker.finish_one(value)
    first, second = (
        database.read(lambda connection, n=n: read_trial(connection, row, n, with_=Part.WHOLE))
        for n in (0, 1)
    )
    assert first is not None
    assert second is not None
    assert first.asked_by is None
    assert second.asked_by in given, "who was first in the database need not be the first to hear of it"
    told = database.read(lambda connection: why(connection, row, second))
    assert told == f'{second.asked_by} proposed it, because: "hunch 1".'
    sentences = " ".join(summarize(reading.history(database, "s")).sentences)
    assert "3 trials were proposed" in sentences
    assert "best 1, median 2; of the other 3: best 5, median 7." in sentences
