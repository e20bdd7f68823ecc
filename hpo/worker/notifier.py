"""Tells those whom a study names of what happens to it: at least once each, in order.

Any number of processes look; a row of the database says which one sends (`storage.queue.notices`).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any

from hpo.spec.notifying import Channel
from hpo.worker.leftovers import importing_hpo
from storage.database.engine import Database
from storage.database.errors import StorageError
from storage.history.lists import progress
from storage.queue import events, notices, outcomes
from storage.queue.events import Event
from storage.queue.notices import Notice

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds for an answer, of a webhook or a command
HELD = 3 * TIMEOUT  # for which the right to send is taken
NEARLY = 0.9  # of the budget


@dataclass(eq=False)
class Notifier:
    """Sends for one process: every `interval` seconds from `start` on, or when it is told to look."""

    database: Database
    interval: float
    code: str | None = None  # where commands run; None: it runs none

    def __post_init__(self) -> None:
        self._me = uuid.uuid4().hex
        self._over = threading.Event()
        self._said: set[str] = set()  # what is said in the log once
        self._thread = threading.Thread(target=self.run, name="notifier", daemon=True)
        self.start = self._thread.start

    def run(self) -> None:
        while not self._over.wait(self.interval):
            try:
                self.look()
            except Exception:  # or the thread would end
                log.exception("news could not be told")

    def finish(self, study: str | None, seconds: float, hurry: Callable[[], bool]) -> None:
        """End; what there is to tell of `study` is told before, for so long, unless it is to `hurry`."""
        self.stop()
        self._thread.join(TIMEOUT)
        until = time.monotonic() + seconds
        left = 0 if hurry() else self.look(study)
        if left:
            log.warning(
                "%d receivers of news cannot be reached; waiting for up to %.0f s. Otherwise the next worker "
                "or dashboard tells them, so that Ctrl-C loses nothing",
                left,
                seconds,
            )
        while left and not hurry() and time.monotonic() < until:
            time.sleep(min(self.interval, 0.2))
            left = self.look(study)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def look(self, study: str | None = None) -> int:
        """Tell what there is to tell; returns how many receivers of `study` this process is yet to reach."""
        left = 0
        try:
            for one in self.database.once(lambda c: notices.open_notices(c, self._me)):
                channel = Channel.model_validate(one.channel)
                if one.runs and events.NEARLY in channel.on:
                    self._look_at_budget(one)
                if one.is_due and self._may(channel):
                    left += (one.waits or not self._tell(one, channel)) and one.study == study
        except StorageError as error:
            log.debug("no news is told for now: %s", error)
        return left

    def _may(self, channel: Channel) -> bool:
        if channel.command is not None:
            return self.code is not None
        name = channel.webhook or ""
        if os.environ.get(name, "").startswith(("http://", "https://")):
            return True
        if name not in self._said:
            self._said.add(name)
            log.warning("%s holds no http(s) URL here: news of a study is left to others", name)
        return False

    def _look_at_budget(self, one: Notice) -> None:
        now = self.database.once(lambda c: progress(c, one.study))
        pairs = ((now.counts.ended, now.row.budget_trials), (now.seconds, now.row.budget_seconds))
        share = max((used / limit for used, limit in pairs if limit), default=0.0)
        if share >= NEARLY:
            self.database.once(lambda c: notices.say_nearly(c, one.study_id, share), write=True)

    def _tell(self, one: Notice, channel: Channel) -> bool:
        """Whether all that can be told was. The right to send is taken anew before each event."""
        wait = None
        lost: set[Any] = set()
        while wait is None:
            found = self.database.once(lambda c: notices.hold(c, one, self._me, HELD, channel.on), write=True)
            if found is None:
                break
            worker = found.details.get("worker")
            if found.what != events.LOST or worker not in lost:  # once, however many trials it had
                lost.add(worker)
                why = self._send(channel, document(found, one))
                if why is not None:
                    receiver = channel.webhook or "a command"
                    log.warning("%s could not be told of %s: %s", receiver, one.study, why)
                    wait = channel.retry
                    continue
            self.database.once(
                partial(notices.arrived, one=one, holder=self._me, event_id=found.id), write=True
            )
        self.database.once(lambda c: notices.let_go(c, one, self._me, wait), write=True)
        return wait is None

    def _send(self, channel: Channel, told: Mapping[str, Any]) -> str | None:
        """Hand one event over; why it did not arrive, without the URL, or None."""
        try:
            if channel.command is not None:
                done = subprocess.run(  # noqa: S603 -- where the worker was told that it may
                    channel.command,
                    input=json.dumps(told).encode(),
                    capture_output=True,
                    timeout=TIMEOUT,
                    check=False,
                    cwd=self.code,
                    env=importing_hpo(),
                )
                return f"exit status {done.returncode}" if done.returncode else None
            said, headers = _FORMS[channel.form](told)
            body = (said if isinstance(said, str) else json.dumps(said)).encode()
            headers = {**headers, "User-Agent": "hpo", "Idempotency-Key": told["id"]}
            url = os.environ[channel.webhook or ""]
            request = urllib.request.Request(url, body, headers)  # noqa: S310 -- http(s), says `_may`
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            return f"it answers {error.code}"
        except (OSError, HTTPException, subprocess.SubprocessError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return getattr(reason, "strerror", None) or type(reason).__name__
        return None


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Where a receiver points elsewhere, that is an answer, and nobody goes there."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_StayHere)


def document(found: Event, one: Notice) -> dict[str, Any]:
    """An event as receivers get it. Nothing in it comes from a trial's output or environment."""
    from hpo.studies.answers import plain  # dear to import, where nobody is told of anything

    kept = ("trial", "value", "failures", "share", "worker")
    details = {name: found.details[name] for name in kept if found.details.get(name) is not None}
    text = f"{one.study}: {_SENTENCES[found.what].format_map({'trial': '?', 'worker': '?', **found.details})}"
    if found.what == events.END:
        why = str(found.details.get("why"))  # after a storm of failures it ends with what the last one said
        text = f"{one.study} has ended: {outcomes.FAILING if why.startswith(outcomes.FAILING) else why}"
    about = {"study": one.study, "event": found.what, "at": plain(found.at), "text": text}
    return {"id": f"{one.uid}-{found.id}", **about, **details}


_SENTENCES = {
    events.END: "ended",
    events.BEST: "trial {trial} is the best so far, with {value:.6g}",
    events.FAILING: "{failures} attempts have failed one after the other, the last of trial {trial}",
    events.LOST: "worker {worker} was lost, with trial {trial}; others go on with it",
    events.NEARLY: "{share:.0%} of the budget is spent",
}
_JSON = {"Content-Type": "application/json"}
_FORMS: dict[str, Callable[[Mapping[str, Any]], tuple[Any, dict[str, str]]]] = {
    "json": lambda told: (told, _JSON),
    "slack": lambda told: ({"text": told["text"]}, _JSON),
    "discord": lambda told: ({"content": told["text"], "allowed_mentions": {"parse": []}}, _JSON),
    "ntfy": lambda told: (told["text"], {"Tags": f"hpo,{told['event']}"}),
}
