"""Messages over a socket, each with its length before it. Two ends that differ in who may be kept waiting.

A runner waits for its worker. A worker waits for no runner: one that is stopped half-way through a message,
or that does not read, keeps nobody else from being heard.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress

from hpo.errors import HpoError

_LENGTH = struct.Struct("!I")
LARGEST = 256 * 1024 * 1024  # bytes of one message
_PIECE = 256 * 1024  # bytes read at once


class ChannelError(HpoError):
    """The other end does not keep to the form of messages."""


class Channel:
    """A runner's end: sends at once, and waits until it has a message. Any thread may send, one receives."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # what an objective starts must not hold it, nor speak here
        self._sending = threading.Lock()
        self._unsent = bytearray()

    def send(self, content: bytes, *, more: bool = False) -> None:
        """Send a message; where `more` is to come, with the next one or at a `flush`.

        Raises:
            OSError: the other end is gone.
        """
        with self._sending:
            self._unsent += _LENGTH.pack(len(content)) + content
        if not more or len(self._unsent) > _PIECE:
            self.flush()

    def flush(self) -> None:
        """Send what waits. Raises as `send` does."""
        if not self._unsent:
            return
        with self._sending:
            content, self._unsent = self._unsent, bytearray()
            try:
                self._socket.sendall(content)
            except BaseException:  # Ctrl-C in the middle of one: nothing may follow half a message
                self._shut()
                raise

    def receive(self) -> bytes:
        """The next message.

        Raises:
            EOFError: the other end is gone.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = self._socket.recv(min(count, _PIECE))
            if not piece:
                raise EOFError("the worker is gone")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close this end, in this process."""
        self._socket.close()

    def hang_up(self) -> None:
        """End the conversation for all who hold this end, and for a thread that waits for a message."""
        self._shut()
        self.close()

    def _shut(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Mailbox:
    """A worker's end: never waits. What cannot be sent now is kept; `flush` sends more of it.

    Any thread may send, one receives.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._lock = threading.Lock()
        self._unsent: deque[bytes | memoryview] = deque()
        self._received = bytearray()
        self._closed = False

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    @property
    def is_full(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._unsent)

    def send(self, content: bytes) -> None:
        """Send a message, or keep it for later; to an end that is gone, nothing."""
        with self._lock:
            if not self._closed:
                self._unsent.append(_LENGTH.pack(len(content)) + content)
                self._send_more()

    def flush(self) -> None:
        """Send what the other end has room for."""
        if not self._unsent:
            return
        with self._lock:
            if not self._closed:
                self._send_more()

    def _send_more(self) -> None:
        while self._unsent:
            content = self._unsent[0]
            try:
                sent = self._socket.send(content)
            except BlockingIOError:
                return
            except OSError:  # it is dead, or about to be
                self._unsent.clear()
                return
            if sent < len(content):
                self._unsent[0] = memoryview(content)[sent:]  # a large message goes in many pieces
                return
            self._unsent.popleft()

    def receive(self) -> list[bytes]:
        """The messages that have come whole.

        Raises:
            EOFError: the other end is gone, and everything it said was received before.
            ChannelError: what comes is no message.
        """
        gone = False
        while True:
            try:
                piece = self._socket.recv(_PIECE)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            if not piece:
                gone = True
                break
            self._received += piece
            if len(piece) < _PIECE:
                break
        found = self._whole()
        if gone and not found:
            raise EOFError("the runner is gone")
        return found

    def _whole(self) -> list[bytes]:
        found, at = [], 0
        while len(self._received) >= at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, at)
            if length > LARGEST:
                raise ChannelError(f"a message of {length} bytes, where {LARGEST} is the most")
            end = at + _LENGTH.size + length
            if len(self._received) < end:
                break
            found.append(bytes(self._received[at + _LENGTH.size : end]))
            at = end
        del self._received[:at]
        return found

    def close(self) -> None:
        """Close this end; what is sent from now on is dropped."""
        with self._lock:
            self._closed = True
            self._socket.close()
