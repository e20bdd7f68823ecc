"""Who may look and who may act: tokens, signed sessions, CSRF tokens, allowed hosts. Plain values, no server.

Two tokens: the token lets its holder see and do everything, the view token only see. A session is a
signed cookie; nothing is kept on the server, so a restart with the same token signs nobody out.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hpo.errors import UserError

SESSION_SECONDS = 7 * 86_400
MIN_TOKEN = 12  # characters
_HOST = re.compile(
    r"(?:(?P<name>[a-z0-9_][a-z0-9._-]*)|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5})?)?"
)


class Role(StrEnum):
    """What a session may do."""

    VIEW = "view"  # see everything, change nothing
    ACT = "act"  # also pause, stop, enqueue, ...


@dataclass(frozen=True)
class Session:
    """Who asks: the role and, for browsers, the token their forms must carry."""

    role: Role
    csrf: str | None  # None: a bearer token was sent, which no other site can make a browser do


@dataclass(frozen=True)
class Access:
    """The rules of one running dashboard.

    Attributes:
        token: grants everything.
        view_token: grants looking; None: nobody gets in that way.
        port: part of the cookie's name, because cookies do not know ports.
        hosts: names a browser may address this server by, besides loopback.
        any_address: whether IP addresses are fine as Host (listening beyond loopback). A rebinding attack
            needs a name, so addresses are harmless.
    """

    token: str
    view_token: str | None = None
    port: int = 8080
    hosts: frozenset[str] = frozenset()
    any_address: bool = False
    _key: bytes = field(init=False, repr=False, default=b"")

    def __post_init__(self) -> None:
        for name, value in (("--token", self.token), ("--view-token", self.view_token)):
            if value is not None and len(value) < MIN_TOKEN:
                raise UserError(
                    f"{name} must have at least {MIN_TOKEN} characters; make one with `openssl rand -hex 24`"
                )
        if self.token == self.view_token:
            raise UserError("--token and --view-token must differ: one acts, the other only looks")
        secret = f"hpo dashboard\0{self.token}\0{self.view_token or ''}"
        object.__setattr__(self, "_key", hashlib.sha256(secret.encode()).digest())

    @property
    def cookie(self) -> str:
        """Name of the session cookie."""
        return f"hpo_session_{self.port}"

    def role_of(self, token: str) -> Role | None:
        """The role a token grants. Takes the same time for every wrong token."""
        acts = _same(token, self.token)
        views = _same(token, self.view_token or secrets.token_hex(16))
        return Role.ACT if acts else Role.VIEW if views else None

    def open_session(self, role: Role, now: float | None = None) -> str:
        """A cookie's value for this role."""
        expires = int((time.time() if now is None else now) + SESSION_SECONDS)
        body = f"{role}.{expires}.{secrets.token_hex(8)}"
        return f"{body}.{self._sign('session', body)}"

    def session_of(self, cookie: str, now: float | None = None) -> Session | None:
        """The session of a cookie; None when it is forged, damaged or over."""
        body, _, signature = cookie.rpartition(".")
        if not _same(signature, self._sign("session", body)):
            return None
        role, expires, _ = body.split(".")
        if float(expires) < (time.time() if now is None else now):
            return None
        return Session(Role(role), self._sign("csrf", cookie))

    def csrf_matches(self, session: Session, sent: str) -> bool:
        """Whether a form carries its session's token."""
        return session.csrf is not None and _same(sent, session.csrf)

    def host_allowed(self, name: str) -> bool:
        """Whether a Host header's name is this server's. Names of others would mean DNS rebinding."""
        if name == "localhost" or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def _sign(self, purpose: str, body: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{body}".encode(), hashlib.sha256).hexdigest()


def new_token() -> str:
    """A token nobody can guess."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_access(
    host: str, port: int, token: str | None, view_token: str | None, hosts: Iterable[str] = ()
) -> Access:
    """The rules for listening on `host`; on loopback without a token one is made for this start.

    Raises:
        UserError: another host without a token, or a token that is too short.
    """
    local = is_loopback(host)
    if token is None and not local:
        raise UserError(
            f"--host {host} lets other machines in, so it needs a token: --token, or better the environment "
            "variable HPO_DASHBOARD_TOKEN. Without one, use a tunnel: ssh -L 8080:127.0.0.1:8080 HOST"
        )
    names = {name.lower().strip() for name in hosts if name.strip()}
    if not local:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(token or new_token(), view_token or None, port, frozenset(names), any_address=not local)


def host_name(header: str) -> str | None:
    """The name or address in a Host header, without port and brackets; None when it is malformed.

    What else could stand there would be read as a path by whoever builds an address from it.
    """
    found = _HOST.fullmatch(header.lower())
    if found is None or int(found["port"] or 0) > 65_535:
        return None
    return found["name"] or found["address"]


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())
