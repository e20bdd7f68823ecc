"""A webhook's receiver on loopback, which may be away, refuse, or take its time."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.ports import free_port


class Receiver:
    """Keeps what was posted to it, in order: (id, body, headers). It is away until `start`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/secret-of-the-hook"
        self.got: list[tuple[str, Any, dict[str, str]]] = []
        self.answers: list[int] = []  # to the next posts; then 204
        self.answering = threading.Event()  # until then posts wait, once they were kept
        self.answering.set()
        self.arrived = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> Receiver:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                plain = "json" not in self.headers.get("Content-Type", "")
                said = body if plain else json.loads(body)
                outer.got.append((self.headers["Idempotency-Key"], said, dict(self.headers)))
                outer.arrived.set()
                outer.answering.wait(120)
                self.send_response(outer.answers.pop(0) if outer.answers else 204)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def ids(self) -> list[str]:
        return [one[0] for one in self.got]

    @property
    def events(self) -> list[str]:
        """What arrived, each event once, in the order in which it did first."""
        first = {told["id"]: told["event"] for _, told, _ in self.got}
        return list(first.values())
