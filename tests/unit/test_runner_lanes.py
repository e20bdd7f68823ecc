"""A runner with several trials: how many it takes at once, and what becomes of all that something ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.errors import HpoError
from hpo.runner.channel import Channel, Mailbox
from hpo.runner.interrupt import Interrupted, StopFlag
from hpo.runner.lanes import Pool, places
from hpo.runner.link import Link
from hpo.runner.messages import Drain, Quit, to_runner
from hpo.runner.output import LOG_NAME, SharedLog
from hpo.runner.values import TogetherError
from storage.database.records import Need
from storage.files.artifacts import ArtifactStore
from tests.support.waiting import wait_until


def session(lanes: int, points: list[dict[str, Any]], key: Any = lambda config: config["hidden"]) -> Any:
    """A runner's, of an objective with this `lane_key`; None: it exports none."""
    objective = SimpleNamespace(many=key and (lambda lanes: None), lane_key=key)
    return SimpleNamespace(
        served=SimpleNamespace(lanes=lanes, points=points, objective="mine.py"), objective=objective
    )


def alike(count: int) -> list[dict[str, Any]]:
    """Points of which so many share a key, in turn."""
    return [{"hidden": number % count} for number in range(32)]


@pytest.mark.parametrize(
    ("lanes", "points", "found"),
    [
        (64, alike(1), 64),
        (64, alike(16), 64),  # four of each, in the mean
        (16, alike(16), 1),
        (64, [{"hidden": None}] * 32, 1),  # none of them can be
        (1, [], 1),
        (5, [], 5),  # asked for, and not looked at
    ],
)
def test_lanes_are_used_where_enough_trials_can_be_trained_together(
    lanes: int, points: list[dict[str, Any]], found: int
) -> None:
    count, note = places(session(lanes, points))
    assert count == found
    assert (note is None) == (not points)


def test_an_objective_without_lanes_trains_one_by_one_or_is_refused_where_a_number_is_asked_for() -> None:
    assert places(session(64, alike(1), None))[0] == 1
    with pytest.raises(HpoError, match="exports objective_many"):
        places(session(8, [], None))


def test_a_setting_whose_key_cannot_be_told_is_trained_by_itself() -> None:
    def key(config: dict[str, Any]) -> Any:
        raise ValueError("no such model")

    assert places(session(64, alike(1), key))[0] == 1


@dataclass(eq=False)
class Lane:
    """A lane's trial, begun again when all were ended together; `ends` are its values, or what was raised.

    All are told to quit when the last is over, as a worker tells its runner: a lane that is told leads others
    away with it.
    """

    number: int
    link: Link
    ends: list[Any]
    all_over: threading.Barrier
    seed: int = 0
    needs_restart: bool = False

    @property
    def config(self) -> dict[str, Any]:
        return {"hidden": self.number < 4}

    def check(self) -> None:
        self.link.stop.between_batches()

    def serve(self, pool: Pool) -> None:
        def run(order: Any) -> None:
            try:
                self.ends.append(pool.enter(self.link, self))  # type: ignore[arg-type]
            except (TogetherError, Interrupted) as error:
                self.ends.append(error)
            again = isinstance(self.ends[-1], TogetherError)
            self.link.orders.put(order if again else Quit())
            if not again:
                self.all_over.wait(120)

        pool.serve(SimpleNamespace(link=self.link, run=run, needs_restart=False))  # type: ignore[arg-type]


@pytest.fixture
def trained() -> Iterator[Callable[..., list[Lane]]]:
    """Trains trials in a pool to its end; four at first, and they have another key than later ones."""
    kept = os.dup(1), os.dup(2)  # what a pool's trials print goes into its log
    ours, theirs = socket.socketpair()
    mailbox = Mailbox(ours)
    first = Link(Channel(theirs.detach()), StopFlag(), on_end=lambda: None)

    def train(count: int, many: Callable[[Any, Mailbox, list[Link]], None]) -> list[Lane]:
        links = [first, *(first.lane() for _ in range(1, count))]
        objective = SimpleNamespace(
            many=lambda lanes: many(lanes, mailbox, links), lane_key=lambda own: own["hidden"]
        )
        session = SimpleNamespace(served=SimpleNamespace(timed=True, log=0), objective=objective, link=first)
        pool = Pool(session, count)  # type: ignore[arg-type]
        all_over = threading.Barrier(count)
        every = [Lane(number, link, [], all_over) for number, link in enumerate(links)]
        threads = [threading.Thread(target=lane.serve, args=(pool,), daemon=True) for lane in every]
        for thread in threads:
            thread.start()
        for link in links[:4]:
            link.orders.put("a task")  # type: ignore[arg-type]
        pool.run()
        for thread in threads:
            thread.join(120)
        return every

    yield train
    for at, descriptor in enumerate(kept, 1):
        os.dup2(descriptor, at)
        os.close(descriptor)
    mailbox.close()


def test_what_lanes_print_is_in_the_log_of_each_while_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it outlives a runner that is killed. However much it is, what they share stays bounded."""
    monkeypatch.setattr("hpo.runner.output.MIRROR_SECONDS", 0.05)
    store, kept = ArtifactStore(tmp_path.as_uri()), (os.dup(1), os.dup(2))
    folders = ("s/0/1", "s/1/1")
    try:
        shared = SharedLog(1000)
        with shared.part(store, folders[0]), shared.part(store, folders[1]):
            os.write(1, b"as one\n")
            wait_until(lambda: all(LOG_NAME in store.names(folder) for folder in folders))
            said = [store.get(f"{folder}/{LOG_NAME}") for folder in folders]
            os.write(1, b"x" * 5000)
            wait_until(lambda: os.fstat(1).st_size == 1000)
            with shared.part(store, "s/2/1"):
                os.write(1, b"the last line\n")
    finally:
        for at, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, at)
            os.close(descriptor)
    assert all(one.endswith(b"meanwhile:\nas one\n") for one in said)
    assert store.get(f"s/2/1/{LOG_NAME}").endswith(b"meanwhile:\nthe last line\n")
    assert store.get(f"{folders[0]}/{LOG_NAME}").endswith(b"xxthe last line\n")


def test_out_of_memory_gives_all_back_and_half_as_many_are_taken(trained: Callable[..., list[Lane]]) -> None:
    sizes: list[int] = []

    def many(lanes: Any, mailbox: Mailbox, links: list[Link]) -> None:
        trials = lanes.joined()
        while len(lanes) < 4 and not sizes:
            trials += lanes.joined()
        sizes.append(len(lanes))
        if len(sizes) == 1:
            raise MemoryError("no room")
        for trial in trials:
            lanes.done(trial, trial.number)

    for number, lane in enumerate(trained(4, many)):
        error, value = lane.ends
        assert isinstance(error, TogetherError)
        assert error.need is Need.NOTHING, "nobody is to blame, and each may go on with others"
        assert "out of memory with 4 trials at once" in str(error)
        assert value == number
    assert sizes[0] == 4
    assert max(sizes[1:]) <= 2


def test_a_worker_that_is_told_to_leave_gets_every_trial_back_also_one_that_waits(
    trained: Callable[..., list[Lane]],
) -> None:
    """Told so by the pipe, as a signal to the worker has it say. The fifth has a key of its own."""

    def many(lanes: Any, mailbox: Mailbox, links: list[Link]) -> None:
        while len(lanes) < 4:
            lanes.joined()
        links[4].orders.put("a task")  # type: ignore[arg-type]
        for slot in range(5):
            mailbox.send(to_runner(Drain(now=True), slot))
        while True:
            lanes.check()

    for lane in trained(5, many):
        assert [type(end) for end in lane.ends] == [Interrupted]
