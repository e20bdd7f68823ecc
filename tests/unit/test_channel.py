"""The pipe of a worker and its runner: nothing is lost or mixed up, and nobody keeps the worker waiting."""

from __future__ import annotations

import json
import os
import pickle
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hpo.runner.channel import LARGEST, Channel, ChannelError, Mailbox
from hpo.runner.messages import Attribute, Finish, Ready, ShouldPrune, Step, ToWorker, to_worker
from hpo.worker.desk import read
from storage.database.records import AttemptState
from tests.support.waiting import wait_until

SIZES = [0, 1, 3, 4, 5, 255, 4096, 256 * 1024 - 4, 256 * 1024, 256 * 1024 + 1, 3_000_000]


class Ends:
    """Both ends of one pipe, and the socket of the runner's end."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.mailbox = Mailbox(ours)
        self.channel = Channel(self.theirs.dup().detach())
        self.theirs.setblocking(True)

    def heard(self, count: int) -> list[bytes]:
        """What the mailbox receives, until it is so many messages."""
        found: list[bytes] = []

        def all_there() -> bool:
            found.extend(self.mailbox.receive())
            return len(found) >= count

        wait_until(all_there, every=0.001, what=f"{count} messages")
        return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.mailbox.close()
    made.channel.close()
    made.theirs.close()


def contents(seed: int = 0) -> list[bytes]:
    """Messages of every size in a random order, told apart by what is in them."""
    numbers = random.Random(seed)
    sizes = SIZES * 2
    numbers.shuffle(sizes)
    return [numbers.randbytes(size) for size in sizes]


def talking(*calls: Any) -> threading.Thread:
    """A thread that makes these calls, one after another."""
    thread = threading.Thread(target=lambda: [call() for call in calls], daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("seed", range(3))
def test_what_a_runner_says_arrives_whole_and_in_order_whatever_its_size(ends: Ends, seed: int) -> None:
    said = contents(seed)
    thread = talking(*(lambda one=one: ends.channel.send(one) for one in said))
    assert ends.heard(len(said)) == said
    thread.join(120)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_worker_says_arrives_whole_and_in_order_whatever_its_size(ends: Ends, seed: int) -> None:
    said = contents(seed)
    for one in said:
        ends.mailbox.send(one)
    heard: list[bytes] = []
    thread = talking(lambda: heard.extend(ends.channel.receive() for _ in said))

    def sent() -> bool:
        ends.mailbox.flush()
        return not ends.mailbox.is_full

    wait_until(sent, every=0.001, what="everything is sent")
    thread.join(120)
    assert heard == said


def test_messages_of_many_threads_are_not_mixed_up(ends: Ends) -> None:
    said = [bytes([number]) * 100_000 for number in range(16)]
    threads = [talking(lambda one=one: ends.channel.send(one)) for one in said]
    assert sorted(ends.heard(len(said))) == said
    for thread in threads:
        thread.join(120)


def test_a_runner_that_does_not_read_keeps_its_worker_from_nothing_and_gets_everything_later(
    ends: Ends,
) -> None:
    said = [bytes([number % 256]) * 50_000 for number in range(100)]
    thread = talking(*(lambda one=one: ends.mailbox.send(one) for one in said))
    thread.join(120)
    assert not thread.is_alive(), "the worker waits for its runner"
    assert ends.mailbox.is_full
    heard: list[bytes] = []
    reader = talking(lambda: heard.extend(ends.channel.receive() for _ in said))

    def sent() -> bool:
        ends.mailbox.flush()
        return not ends.mailbox.is_full

    wait_until(sent, every=0.001, what="everything is sent")
    reader.join(120)
    assert heard == said


def test_a_large_message_goes_out_in_pieces_without_being_copied_for_each(ends: Ends) -> None:
    """A runner's first look at a study of many trials; copied for each piece, 64 MB are 10 GB."""
    content = bytes(64 * 1024 * 1024)
    heard: list[int] = []
    reader = talking(lambda: heard.append(len(ends.channel.receive())))
    began = time.thread_time()
    ends.mailbox.send(content)
    while ends.mailbox.is_full:
        select.select([], [ends.mailbox], [], 1.0)
        ends.mailbox.flush()
    reader.join(120)
    assert heard == [len(content)]
    assert time.thread_time() - began < 1.5


def test_half_a_message_is_kept_until_the_rest_comes(ends: Ends) -> None:
    whole = struct.pack("!I", 6) + b"abcdef" + struct.pack("!I", 2) + b"gh"
    found = []
    for at in range(len(whole)):
        ends.theirs.sendall(whole[at : at + 1])
        found.append(ends.mailbox.receive())
    assert [(at, one) for at, one in enumerate(found) if one] == [(9, [b"abcdef"]), (15, [b"gh"])]


def test_a_stopped_writer_keeps_its_half_message_to_itself(ends: Ends) -> None:
    """Nothing comes of it, and nothing waits for it."""
    ends.channel.send(b"whole")
    ends.theirs.sendall(struct.pack("!I", 100) + b"half")
    assert ends.mailbox.receive() == [b"whole"]
    assert [ends.mailbox.receive() for _ in range(3)] == [[], [], []]


@pytest.mark.parametrize("length", [LARGEST + 1, 2**32 - 1])
def test_an_absurd_length_is_refused_before_anything_is_kept(ends: Ends, length: int) -> None:
    ends.theirs.sendall(struct.pack("!I", length))
    with pytest.raises(ChannelError, match=str(length)):
        ends.mailbox.receive()


def test_what_was_said_before_the_end_is_heard_and_then_the_end(ends: Ends) -> None:
    ends.channel.send(b"last words")
    ends.channel.close()
    ends.theirs.close()
    assert ends.mailbox.receive() == [b"last words"]
    with pytest.raises(EOFError):
        ends.mailbox.receive()


def test_a_worker_that_speaks_to_a_dead_runner_does_not_notice(ends: Ends) -> None:
    ends.channel.close()
    ends.theirs.close()
    for _ in range(3):
        ends.mailbox.send(bytes(1_000_000))
        ends.mailbox.flush()
    assert not ends.mailbox.is_full


def test_after_the_close_sending_does_nothing_and_receiving_says_that_it_is_over(ends: Ends) -> None:
    ends.mailbox.send(bytes(10_000_000))
    ends.mailbox.close()
    ends.mailbox.send(b"late")
    ends.mailbox.flush()
    ends.mailbox.close()
    with pytest.raises(EOFError):
        ends.mailbox.receive()


def test_a_runner_whose_worker_is_gone_is_told(ends: Ends) -> None:
    ends.mailbox.close()
    with pytest.raises(EOFError):
        ends.channel.receive()
    with pytest.raises(BrokenPipeError):
        ends.channel.send(bytes(10_000_000))


def test_the_pipe_is_not_inherited_by_what_a_runner_starts(ends: Ends) -> None:
    """`os.system` and the like: another process could write to it, and would keep it open."""
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)  # as a worker passes it on
    descriptor = theirs.detach()
    channel = Channel(descriptor)
    assert not os.get_inheritable(descriptor)
    channel.close()
    ours.close()


# What a runner says is read as data


SAID: list[ToWorker] = [
    Ready({"python": "3"}),
    Step(1, 2, 3, 0.5, {"loss": 1.0}),
    Step(1, 2, 3, None, {}),
    Attribute(4, 2, "user", "k", "[1]"),
    ShouldPrune(5, 2),
    Finish(6, 2, AttemptState.COMPLETE, (1.0, 2.0), None, 3.0, {1: 0.5}, {1: {"loss": 1.0}}),
    Finish(7, 2, AttemptState.FAILED, None, "bo\0om \N{SNOWMAN}"),
]


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_said(message: ToWorker) -> None:
    assert read(to_worker(message, 3)) == (3, message)


def test_nan_and_infinity_are_numbers() -> None:
    _, heard = read(to_worker(Step(1, 1, 1, float("inf"), {"loss": float("nan")})))
    assert isinstance(heard, Step)
    assert heard.value == float("inf")
    assert heard.metrics["loss"] != heard.metrics["loss"]


def step(lane: Any = 0, **changes: Any) -> bytes:
    fields = {"number": 1, "serial": 1, "step": 1, "value": 0.5, "metrics": {}}
    return json.dumps(["Step", fields | changes, lane]).encode()


class Bomb:
    """A pickle that would do something."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("what a runner said was run",)


NO_MESSAGES = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of it": step()[:-5],
    "bytes that are no text": b"\x80\xff\xfe\x00",
    "a pickle": pickle.dumps(Step(1, 1, 1, 0.5, {})),
    "a pickle that does something": pickle.dumps(Bomb()),
    "a number": b"5",
    "null": b"null",
    "an empty list": b"[]",
    "one thing": b'["Step"]',
    "two things": json.dumps(json.loads(step())[:2]).encode(),
    "four things": json.dumps([*json.loads(step()), 0]).encode(),
    "a lane that is text": step("0"),
    "a lane below 0": step(-1),
    "a lane that is true": step(True),
    "half a lane": step(0.5),
    "no lane": step(None),
    "a mapping of two": b'{"Step": 1, "Ready": 2}',
    "an unknown kind": b'["Boot", {}, 0]',
    "a kind that is a worker's": b'["Drain", {"now": true}, 0]',
    "a kind that is watched": b'["Started", {}, 0]',
    "a list as its kind": b'[["Step"], {}, 0]',
    "a mapping as its kind": b"[{}, {}, 0]",
    "no kind": b"[null, {}, 0]",
    "fields in a list": b'["Step", [1, 1, 1, 0.5, {}], 0]',
    "no fields": b'["Step", null, 0]',
    "a field missing": b'["Step", {"number": 1}, 0]',
    "text as a number": step(value="half"),
    "a list as a number": step(step=[1]),
    "half a step": step(step=1.5),
    "infinite steps": step(step=float("inf")),
    "metrics in a list": step(metrics=[1.0]),
    "a metric that is text": step(metrics={"loss": "low"}),
    "no such state": b'["Finish", {"number": 1, "serial": 1, "state": "won"}, 0]',
    "no such owner": b'["Attribute", {"number": 1, "serial": 1, "of": "all", "key": "k", "value": "1"}, 0]',
    "very deep": b"[" * 100_000,
    "deep inside": b'["EnqueuePoint", {"number": 1, "serial": 1, "point": ' + b'{"a":' * 50_000,
    "a number of many digits": b'["ShouldPrune", {"number": ' + b"9" * 10_000 + b', "serial": 1}, 0]',
}


@pytest.mark.parametrize("what", NO_MESSAGES)
def test_what_is_no_message_is_refused_with_a_sentence(what: str) -> None:
    assert read(step()) == (0, Step(1, 1, 1, 0.5, {})), "the others differ from this one"
    with pytest.raises(ChannelError, match="no message"):
        read(NO_MESSAGES[what])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_messages_are_read_or_refused_and_nothing_else(seed: int) -> None:
    numbers = random.Random(seed)
    good = [to_worker(message) for message in SAID]
    for _ in range(200):
        content = bytearray(numbers.choice(good))
        for _ in range(numbers.randint(1, 4)):
            at = numbers.randrange(len(content))
            match numbers.randrange(3):
                case 0:
                    content[at] = numbers.randrange(256)
                case 1:
                    del content[at : at + numbers.randint(1, 5)]
                    content = content or bytearray(b"0")
                case 2:
                    content[at:at] = numbers.randbytes(numbers.randint(1, 4))
        try:
            read(bytes(content))
        except ChannelError:
            continue
