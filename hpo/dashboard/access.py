"""Who may look and who may act: tokens, signed sessions, CSRF tokens, allowed hosts. Plain values, no server.

Two tokens: the token lets its holder see and do everything, the view token only see. Any number of named ones
stand in the database (`storage.queue.tokens`) with what each may do. A session is a signed cookie; nothing is
kept on the server, so a restart with the same token signs nobody out. Where no token was chosen nobody needs
to know one: a link that opens once is printed instead.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hpo.errors import UserError
from storage.queue import tokens

SESSION_SECONDS = 7 * 86_400
MAX_FAILURES = 10  # wrong tokens of one client within a minute
MAX_CLIENTS = 10_000  # whose wrong tokens are remembered
MIN_TOKEN = 12  # characters
LINK_SECONDS = 600.0  # for which a link that opens once stays good
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
    digest: str = ""  # of the named token that it was opened with, whose rights are looked up at each request
    name: str | None = None  # of that token
    study: str | None = None  # the only one it may see; None: every one

    @property
    def who(self) -> str:
        """As events tell it."""
        return "the dashboard's token" if self.name is None else f"token {self.name}"

    def may_visit(self, path: str) -> bool:
        """Whether this address is within the rights: for one study's token, what is below that study."""
        if self.study is None or path == "/logout" or path.startswith("/assets/"):
            return True
        of_it = path.removeprefix("/api/v1").split("/")[1:3]
        return of_it == ["studies", self.study]


class OneTimeLink:
    """A code that opens one session, once and for `LINK_SECONDS`; at most one is good at a time.

    Addresses end in histories, logs and other people's sight, so what stands in one must soon be worthless.
    Whoever comes with a code that has been used, or is too old, is not let in; but a new link is announced
    where the first one was, in the terminal that serves: who can read that, may enter.
    """

    def __init__(self) -> None:
        self.announce: Callable[[str], None] | None = None  # says a new code to the person at the terminal
        self.used = threading.Event()
        self._good: tuple[bytes, float] | None = None  # digest of the code, monotonic time of its end
        self._old: deque[bytes] = deque(maxlen=100)

    def issue(self) -> str:
        """A new code; one that was good before is not any more."""
        self._retire()
        code = secrets.token_urlsafe(24)
        self._good = (_digest(code), time.monotonic() + LINK_SECONDS)
        return code

    def redeem(self, code: str) -> bool:
        """Whether the code was good until now."""
        digest = _digest(code)
        if self._good is None or not hmac.compare_digest(digest, self._good[0]):
            return False
        in_time = time.monotonic() < self._good[1]
        self._retire()
        if in_time:
            self.used.set()
        return in_time

    def was_good(self, code: str) -> bool:
        """Whether the code was good once. Then a new one is announced, unless one is waiting to be used."""
        if _digest(code) not in self._old:
            return False
        waiting = self._good is not None and time.monotonic() < self._good[1]
        if self.announce is not None and not waiting:
            self.announce(self.issue())
        return True

    def _retire(self) -> None:
        if self._good is not None:
            self._old.append(self._good[0])
            self._good = None


class Failures:
    """Wrong tokens of the last minute, counted for each client: nobody's guesses lock another one out.

    A client is an IPv4 address or an IPv6 network of 64 bits, which is what one person is given.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, host: str) -> int:
        """One more; returns how many of this client there are now, at most `MAX_FAILURES`."""
        found = self._of.setdefault(_client(host), deque(maxlen=MAX_FAILURES))
        self._of.move_to_end(_client(host))
        while len(self._of) > MAX_CLIENTS:
            self._of.popitem(last=False)
        now = time.monotonic()
        found.append(now)
        return sum(now - then < 60 for then in found)

    def too_many(self, host: str) -> bool:
        """Whether this client must wait."""
        found = self._of.get(_client(host))
        return found is not None and len(found) == MAX_FAILURES and time.monotonic() - found[0] < 60


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
        link: grants everything, once.
    """

    token: str
    view_token: str | None = None
    port: int = 8080
    hosts: frozenset[str] = frozenset()
    any_address: bool = False
    link: OneTimeLink = field(default_factory=OneTimeLink, compare=False)
    failures: Failures = field(default_factory=Failures, compare=False)
    _ended: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    _key: bytes = field(init=False, repr=False, default=b"")

    def __post_init__(self) -> None:
        options: dict[str, str | None] = {"--token (HPO_DASHBOARD_TOKEN)": self.token}
        options["--view-token (HPO_DASHBOARD_VIEW_TOKEN)"] = self.view_token
        for name, value in options.items():
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

    def known(self, bearer: str, cookie: str) -> Session | None:
        """Who asks; None: nobody. What one with a `digest` may do is to be looked up yet."""
        if not bearer:
            return self.session_of(cookie)
        role = self.role_of(bearer)
        if role is None and bearer.startswith(tokens.PREFIX):
            return Session(Role.VIEW, None, tokens.digest_of(bearer))
        return None if role is None else Session(role, None)

    def open_session(self, role: Role, now: float | None = None, digest: str = "") -> str:
        """A cookie's value for this role; with the digest of a named token it ends when that is revoked."""
        expires = int((time.time() if now is None else now) + SESSION_SECONDS)
        body = f"{role}.{expires}.{secrets.token_hex(8)}.{digest}"
        return f"{body}.{self._sign('session', body)}"

    def session_of(self, cookie: str, now: float | None = None) -> Session | None:
        """The session of a cookie; None when it is forged, damaged or over."""
        body, _, signature = cookie.rpartition(".")
        if not _same(signature, self._sign("session", body)):
            return None
        role, expires, _, digest = body.split(".")
        if body in self._ended or float(expires) < (time.time() if now is None else now):
            return None
        return Session(Role(role), self._sign("csrf", cookie), digest)

    def end_session(self, cookie: str) -> None:
        """Whoever holds a copy of the cookie is signed out too, as long as this dashboard runs."""
        if self.session_of(cookie) is None:
            return
        for body, expires in list(self._ended.items()):
            if expires < time.time():
                del self._ended[body]
        body = cookie.rpartition(".")[0]
        self._ended[body] = float(body.split(".")[1])

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


def _client(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:100]
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())
