"""Who looks at a page is told of every change, from before the page is first made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hpo.dashboard.hub import Hub, study_topic
from hpo.studies import reading, steering
from storage.database.engine import Database
from storage.history.pulse import take_pulse


def test_what_changes_while_a_page_is_first_made_is_told_when_it_is_known_what_the_page_shows(
    database: Database,
) -> None:
    """And where nobody listened for a while, so is what changes from the next who listens on."""
    hub = Hub(database, interval=0.01)
    row = reading.get_study(database, "digits")

    async def heard() -> set[str]:
        with hub.listen() as subscription:
            await hub.looks()
            steering.pause(database, row)
            told: set[str] = set()
            while not told:
                told = await subscription.next(120)
            subscription.topics = frozenset()  # it shows nothing that changes
            steering.resume(database, row)
            assert not await subscription.next(0.1)
            return told

    async def twice() -> list[set[str]]:
        looking = asyncio.create_task(hub.run())
        found = [await heard(), await heard()]
        looking.cancel()
        return found

    assert all(study_topic("digits") in told for told in asyncio.run(twice()))


def test_who_is_told_to_go_on_hears_of_every_change_also_where_a_look_failed_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed look has nothing that the next one could be compared with."""
    hub = Hub(database, interval=0.01)
    row = reading.get_study(database, "digits")
    failures = iter((RuntimeError("one"), RuntimeError("two")))

    def fails_twice(*args: Any) -> Any:
        for failure in failures:
            raise failure
        return take_pulse(*args)

    async def heard() -> set[str]:
        looking = asyncio.create_task(hub.run())
        with hub.listen() as subscription:
            await hub.looks()
            steering.pause(database, row)
            told = await subscription.next(120)
        looking.cancel()
        return told

    monkeypatch.setattr("hpo.dashboard.hub.take_pulse", fails_twice)
    assert study_topic("digits") in asyncio.run(heard())
