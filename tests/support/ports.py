"""TCP ports that stay ours while nothing listens on them."""

from __future__ import annotations

import os
import random
import socket

_given: set[int] = set()  # a port is nobody's until its server listens, and again while that is down


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on, below the range that systems hand to outgoing connections.

    Binding port 0 would give one of that range; while our server is down, a client that keeps trying to
    reach it could then be given the same port as its own end and connect to itself. No port is given twice.
    """
    mine = (
        int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    )  # another's may be free between two servers
    for _ in range(200):
        port = random.SystemRandom().randrange(20000 + mine, 32000, 8)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free TCP port between 20000 and 32000 on 127.0.0.1")
