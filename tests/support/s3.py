"""An S3 on loopback: moto's server in a thread of this process, to start, stop and start again."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from tests.support.ports import free_port


class S3Server:
    """One bucket behind http://127.0.0.1:PORT. What it holds outlives `stop` and `start`."""

    bucket = "studies"

    def __init__(self) -> None:
        self.port = free_port()
        self._server: Any = None

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to find it; the secret is one to look for in logs."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "not-so-very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # the driver's own patience, on top of ours
        }

    def start(self) -> S3Server:
        """Serve; the bucket is there."""
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        server.start()
        self._server = server
        self._client().create_bucket(Bucket=self.bucket)
        return self

    def stop(self) -> None:
        """Refuse connections until the next `start`."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @contextmanager
    def outage(self) -> Iterator[list[str]]:
        """Drop every connection inside; yields a list that grows by one for each."""
        self.stop()
        turned_away: list[str] = []
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            closing = threading.Event()

            def drop() -> None:
                while not closing.is_set():
                    with suppress(OSError):
                        connection, peer = listener.accept()
                        connection.close()
                        turned_away.append(str(peer))

            thread = threading.Thread(target=drop, daemon=True)
            thread.start()
            try:
                yield turned_away
            finally:
                closing.set()
                socket.create_connection(("127.0.0.1", self.port)).close()
                thread.join(120)
        self.start()

    def keys(self, prefix: str = "") -> list[str]:
        """Every object's key under `prefix`."""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _client(self) -> Any:
        from botocore.session import Session

        session = Session()
        session.set_credentials("AKIAEXAMPLE", "not-so-very-secret")
        return session.create_client("s3", region_name="us-east-1", endpoint_url=self.env["AWS_ENDPOINT_URL"])

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
