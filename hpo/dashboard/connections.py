"""What a connection may cost: how long it may take to ask, how slowly it may read, how many there may be.

uvicorn ends a connection that rests between two requests, but waits without end for the first byte of one,
for its last, and for a reader that does not read; so a few hundred idle clients would be all there are.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
REQUEST_SECONDS = 20.0  # from the connection, or the end of the last answer, until a request is there whole
READING_SECONDS = 30.0  # within which a client must take some of what waits for it
_READ_BYTES = 1024  # that count as some


def connection_limit(most: int = MAX_CONNECTIONS) -> int:
    """How many connections to hold: half of the files this process may open, after asking for enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * most:
        soft = 4 * most if hard == resource.RLIM_INFINITY else min(hard, 4 * most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(8, min(most, soft // 2))


class Connection(H11Protocol):
    """uvicorn's connection with time-outs; where there are too many, who has not asked for longest goes.

    uvicorn's own limit (`limit_concurrency`, whose number this takes) would turn the next one away instead.
    """

    _ends: asyncio.TimerHandle | None = None  # when it has taken too long to ask
    _reads: asyncio.TimerHandle | None = None  # when it has taken too long to read
    _round = -1  # which request of the connection is awaited; -1: none
    _since = 0.0  # loop time since when

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        most, self.limit_concurrency = self.config.limit_concurrency, None
        self._count = 0
        self._expect()
        if most is not None and len(self.connections) > most:
            waiting = [other for other in self.connections if isinstance(other, Connection) and other._ends]
            min(waiting, key=lambda other: other._since).drop()

    def drop(self) -> None:
        """End the connection now; it does not count any more."""
        self._stop_timers()
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """Called by uvicorn when an answer is written."""
        self._count += 1
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._stop_timers()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by asyncio when the client does not read as fast as is written."""
        super().pause_writing()
        self._watch_reading(None)

    def resume_writing(self) -> None:
        """Called by asyncio when it has read most."""
        super().resume_writing()
        if self._reads is not None:
            self._reads.cancel()
            self._reads = None

    def _expect(self) -> None:
        """Start the time for a request when one is awaited, and stop it when that is there whole."""
        awaited = self._count if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) else -1
        if awaited == self._round:
            return
        self._round = awaited
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None
        if awaited >= 0:
            self._since = self.loop.time()
            self._ends = self.loop.call_later(REQUEST_SECONDS, self.drop)

    def _watch_reading(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and left > before - _READ_BYTES:
            self.drop()
        else:
            self._reads = self.loop.call_later(READING_SECONDS, self._watch_reading, left)

    def _stop_timers(self) -> None:
        for timer in (self._ends, self._reads):
            if timer is not None:
                timer.cancel()
        self._ends = self._reads = None
