"""Clients that connect and do nothing, or little, keep nobody else from being answered."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from hpo.dashboard import connections
from hpo.dashboard.board import Board
from hpo.dashboard.server import Server, Tls
from hpo.errors import UserError
from tests.dashboard.conftest import TOKEN
from tests.support.waiting import LONGEST, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LOGIN = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
LIMIT = 60
Serving = Callable[..., int]


@pytest.fixture
def serving(board: Board) -> Iterator[Serving]:
    """`serving(tls)` starts the dashboard of this test in a thread and gives its port."""
    with ExitStack() as stack:
        yield lambda tls=None: stack.enter_context(served(board, tls))


@contextmanager
def served(board: Board, tls: Tls | None) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # so that readers are waited for
        server = Server(board, tls)
        server.config.limit_concurrency = LIMIT
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(120)


def opened(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), LONGEST)
    client.sendall(sent)
    return client


def asking(port: int, sent: bytes) -> socket.socket:
    """A connection whose request was sent in time: a client that the machine held up is opened anew."""
    while True:
        began = time.monotonic()
        client = opened(port, sent)
        if time.monotonic() - began < connections.REQUEST_SECONDS / 2:
            return client
        client.close()


def answer(client: socket.socket) -> bytes:
    """Everything until the other end closes."""
    found = b""
    while chunk := client.recv(65536):
        found += chunk
    return found


def is_closed(client: socket.socket) -> bool:
    """Whether the server ends the connection without an answer."""
    try:
        return answer(client) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def is_cut_off(client: socket.socket, sending: bytes) -> bool:
    """Whether the server ends the connection while bytes are sent, one by one, for a minute."""
    client.settimeout(0.05)
    for _ in range(1200):
        try:
            client.sendall(sending)
            if client.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


UNFINISHED = [b"", b"GET / HTTP/1.1\r\nHo", LOGIN]  # before, within and after the header


def test_two_hundred_idle_connections_stop_nobody(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more of them than connections are held, and they are not cut off for their time."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 600)
    port = serving()
    idle = [opened(port, sent) for sent in UNFINISHED for _ in range(70)]
    assert b"200 OK" in answer(opened(port, HEALTH))
    for client in idle:
        client.close()


def test_who_takes_too_long_to_ask_is_cut_off(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """However it drips: each byte does not start the time anew; nor does a request before."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    port = serving()
    for sent in UNFINISHED:
        assert is_cut_off(opened(port, sent), sending=b"x")
    again = asking(port, HEALTH.replace(b"close", b"keep-alive"))
    assert b"200 OK" in again.recv(65536)
    assert is_cut_off(again, sending=b"G")
    assert "Traceback" not in capfd.readouterr().err


def test_who_does_not_read_is_cut_off(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READING_SECONDS", 0.3)
    drop, dropped = connections.Connection.drop, threading.Event()
    monkeypatch.setattr(connections.Connection, "drop", lambda self: (drop(self), dropped.set()))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", serving()))
    large = max(STATIC.rglob("*.js"), key=lambda path: path.stat().st_size)
    asset = f"/assets/{large.relative_to(STATIC).as_posix()}"
    client.sendall(f"GET {asset} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert dropped.wait(LONGEST)
    client.settimeout(LONGEST)
    with suppress(ConnectionError):
        assert len(answer(client)) < large.stat().st_size


STATIC = Path(connections.__file__).parent / "static"


def test_an_open_page_is_no_idle_connection(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event stream outlives the time for asking, and goes on while others come and are cut off."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    port = serving()
    head = f"GET /workers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    stream = asking(port, (head + "Accept: text/event-stream\r\n\r\n").encode())
    assert b"200 OK" in stream.recv(65536)
    idle = [opened(port) for _ in range(100)]
    assert is_closed(idle[0])
    stream.setblocking(False)
    while select.select([stream], [], [], 0)[0]:
        assert stream.recv(65536) != b"", "the stream has ended"


def test_half_of_the_files_a_process_may_open_are_connections() -> None:
    code = """
import resource
from hpo.dashboard.connections import connection_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 128))
print(connection_limit())
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "64\n"
    )


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_with_a_certificate_it_speaks_tls(serving: Serving, pem: tuple[Path, Path]) -> None:
    """Browsers are told to stay with it, and the cookie is sent by nothing else."""
    port = serving(Tls(*pem))
    trusting = ssl.create_default_context(cafile=str(pem[0]))

    def over_tls(request: str) -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), LONGEST)
        with trusting.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return answer(client)

    assert b"strict-transport-security: max-age=31536000" in over_tls("GET /login")
    assert b"; Secure" in over_tls(f"GET /?token={TOKEN.replace(' ', '+')}")
    assert b"200 OK" not in (answer(opened(port, HEALTH)) or b"")


def test_tls_files_that_do_not_fit_are_refused(tmp_path: Path, pem: tuple[Path, Path]) -> None:
    certificate, key = pem
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-out", locked, "-aes256", "-passout", "pass:x"],
        check=True,
        capture_output=True,
    )
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Tls(tmp_path / "none.pem", key)
    with pytest.raises(UserError, match="are not a certificate and its key"):
        Tls(certificate, certificate)
    with pytest.raises(UserError, match="has a passphrase"):
        Tls(certificate, locked)
