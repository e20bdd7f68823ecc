"""A TCP proxy that can lose the network between a client and a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal

from sqlalchemy.engine import make_url

from tests.support.ports import free_port

_CHUNK = 65536


class TcpProxy:
    """Listens on a port of 127.0.0.1 and forwards every connection to `host:port`, until it is cut.

    `cut("hold")` is a network that swallows packets: connections stay open and nothing moves, new ones get
    no answer. `heal()` delivers what waited, as TCP does after a short interruption; `heal(forget=True)`
    resets those connections instead, as after a long one.
    `cut("reset")` resets every connection and refuses new ones, as a server that went away.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self.port = free_port()
        self.connections = 0  # accepted since the start
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._flow = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    def url(self, url: str) -> str:
        """The same database URL, by way of this proxy."""
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def cut(self, mode: Literal["hold", "reset"] = "hold") -> None:
        """Lose the network, in the way the class describes."""
        self._call(self._cut(mode))

    def heal(self, *, forget: bool = False) -> None:
        """Give the network back; with `forget`, connections from before are reset."""
        self._call(self._heal(forget))

    # -- on the loop's thread

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _cut(self, mode: str) -> None:
        self._flow.clear()
        if mode == "reset":
            await self._stop_listening()
            self._reset_all()

    async def _heal(self, forget: bool) -> None:
        if forget:
            self._reset_all()
        self._flow.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close(self) -> None:
        await self._stop_listening()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        await self._flow.wait()
        try:
            back_reader, back_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is down: the client sees what it would see without us
            _reset(writer)
            return
        self._open.add(back_writer)
        await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer))
        self._open -= {writer, back_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flow.wait()
                writer.write(data)
                await writer.drain()
            await self._flow.wait()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
