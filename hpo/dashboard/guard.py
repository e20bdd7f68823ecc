"""What every request passes first: host, session, origin, CSRF, role; and the headers on the way out.

It stands in front of all routes, so a route that is added later cannot forget a check.
"""

from __future__ import annotations

import json
import logging
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpo.dashboard.access import MAX_FAILURES, SESSION_SECONDS, Access, Role, Session, host_name
from hpo.dashboard.board import Board
from storage.database.errors import StorageError

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024  # bytes of a form or a JSON document
PUBLIC = ("/login", "/health")
ASSETS = "/assets/"  # public as well
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # plotly.js sets style attributes and fills one style element that it makes empty (hence the hash of
        # nothing); no other style element and no script of a page's own can run.
        "style-src-elem 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HSTS = "max-age=31536000"  # seconds for which a browser that came by TLS comes by nothing else


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, board: Board, foreign: tuple[str, ...] = ()) -> None:
        self._app = app
        self._board = board
        self._access = board.access
        self._foreign = foreign  # path prefixes of another application, whose forms carry no CSRF token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = HSTS
            await send(message)

        request = Request(scope, receive)
        try:
            answer, body = await self._judge(request)
        except ClientDisconnect:  # nobody is left to be answered
            return
        except StorageError as error:  # a named token cannot be looked up
            answer, body = _refuse(request, 503, str(error)), None
        if answer is not None:
            await answer(scope, receive, send_safely)
            return
        await self._app(scope, receive if body is None else _replay(body, receive), send_safely)

    async def _judge(self, request: Request) -> tuple[Response | None, bytes | None]:
        """The answer when the request ends here, and its body when that was read."""
        hosts = request.headers.getlist("host")
        host = host_name(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return _refuse(
                request, 400, "The Host header must be there once: a name or address, and a port."
            ), None
        if not self._access.host_allowed(host):
            return _refuse(
                request, 421, "This server does not go by that name. Start it with --allow-host NAME."
            ), None
        session = await self._session(request)
        request.scope["hpo.session"] = session
        if session is None and _bearer(request) and self._must_wait(request):
            return self._wait(request), None
        if session is not None and not session.may_visit(path_of(request)):
            return self._lead_back(request, session), None
        if request.method in SAFE_METHODS:
            return await self._judge_reading(request, session), None
        body = await _body(request)
        if body is None:
            return _refuse(request, 413, f"Too long: at most {MAX_BODY // 1024} KiB."), None
        if not _same_origin(request):
            return _refuse(request, 403, "This request comes from another site."), None
        if path_of(request) == "/login":
            return await self._log_in(request, body), body
        if session is None:
            return _refuse(request, 401, "Sign in with the token first."), None
        if session.role is not Role.ACT:
            return _refuse(request, 403, "This session may look, but not act."), None
        if session.csrf is not None and not self._proves_intent(request, session, body):
            return _refuse(request, 403, "The form is too old or was not ours; reload the page."), None
        return None, body

    async def _judge_reading(self, request: Request, session: Session | None) -> Response | None:
        token = request.query_params.get("token")
        if token is not None and path_of(request) != "/login":
            return await self._enter(request, token)
        code = request.query_params.get("code")
        if (
            code is not None
            and request.method == "GET"
            and not path_of(request).startswith(("/login", "/api/"))
        ):
            return self._enter_once(request, code, session)
        if session is not None or _is_public(path_of(request)):
            return None
        if path_of(request).startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return _refuse(request, 401, "Send the token: Authorization: Bearer TOKEN.")
        query = request.scope["query_string"].decode("latin-1")
        wanted = path_of(request) + (f"?{query}" if query else "")
        return RedirectResponse(f"/login?next={quote(wanted, safe='')}", status_code=303)

    async def _session(self, request: Request) -> Session | None:
        """A right token always enters, however many wrong ones came from the same address."""
        found = await self._known(_bearer(request), _cookie(request, self._access))
        if found is None and _bearer(request):
            self._note_failure(request)
        return found

    async def _known(self, bearer: str, cookie: str = "") -> Session | None:
        found = self._access.known(bearer, cookie)
        if found is None or not found.digest:
            return found
        return await run_in_threadpool(self._board.granted, found)

    def _lead_back(self, request: Request, session: Session) -> Response:
        """Whoever may see one study only is led there from the list of all; elsewhere there is nothing."""
        if path_of(request) == "/" and request.method in SAFE_METHODS:
            return RedirectResponse(f"/studies/{quote(session.study or '', safe='')}", status_code=303)
        return _refuse(request, 403, f"This token is for the study {session.study} alone.")

    async def _enter(self, request: Request, token: str) -> Response:
        """The printed address: open a session and drop the token from the address at once."""
        return await self._admit(request, token, _without(request, "token"))

    def _enter_once(self, request: Request, code: str, session: Session | None) -> Response:
        """The link that opens once; again in the same browser it leads to its page."""
        target = _without(request, "code")
        if session is not None and session.role is Role.ACT:
            return RedirectResponse(target, status_code=303)
        if self._must_wait(request):
            return self._wait(request)
        if self._access.link.redeem(code):
            return self._let_in(request, Session(Role.ACT, None), target)
        why = "used" if self._access.link.was_good(code) else "wrong"
        if why == "wrong":
            self._note_failure(request)
        return RedirectResponse(f"/login?{why}=1&next={quote(target, safe='')}", status_code=303)

    async def _log_in(self, request: Request, body: bytes) -> Response:
        form = parse_qs(body.decode("utf-8", "replace"))
        target = _local(form.get("next", ["/"])[0])
        return await self._admit(request, form.get("token", [""])[0], target)

    async def _admit(self, request: Request, token: str, target: str) -> Response:
        if self._must_wait(request):
            return self._wait(request)
        session = await self._known(token.strip())
        if session is None:
            self._note_failure(request)
            return RedirectResponse(f"/login?wrong=1&next={quote(target, safe='')}", status_code=303)
        return self._let_in(request, session, target)

    def _let_in(self, request: Request, session: Session, target: str) -> Response:
        answer = RedirectResponse(target, status_code=303)
        answer.set_cookie(
            self._access.cookie,
            self._access.open_session(session.role, digest=session.digest),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="lax",
            secure=request.scope["scheme"] == "https",
            path="/",
        )
        return answer

    def _note_failure(self, request: Request) -> None:
        """What was sent stays out of the log: it may be nearly right."""
        if self._must_wait(request):
            return  # who goes on all the same fills no log
        count = self._access.failures.note(_host(request))
        log.warning("wrong token from %s, the %d. within a minute", _host(request), count)
        if count == MAX_FAILURES:
            log.warning("%s must wait a minute; its further tries are not told", _host(request))

    def _must_wait(self, request: Request) -> bool:
        return self._access.failures.too_many(_host(request))

    def _wait(self, request: Request) -> Response:
        return _refuse(request, 429, "Too many wrong tokens from your address; wait a minute.")

    def _proves_intent(self, request: Request, session: Session, body: bytes) -> bool:
        if path_of(request).startswith(self._foreign) and not path_of(request).startswith("/api/v1/"):
            # It cannot send our token: its own pages are told by what no other site can fake.
            return request.headers.get("origin") is not None or (
                request.headers.get("sec-fetch-site") == "same-origin"
            )
        sent = request.headers.get("x-csrf-token", "")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if not sent and kind == "application/x-www-form-urlencoded":
            sent = parse_qs(body.decode("utf-8", "replace")).get("csrf", [""])[0]
        return self._access.csrf_matches(session, sent)


def path_of(request: Request) -> str:
    """The path that routes are chosen by; an address built from the Host header may have another."""
    path: str = request.scope["path"]
    return path


def session_of(request: Request) -> Session | None:
    """The session the guard found."""
    found = request.scope.get("hpo.session")
    return found if isinstance(found, Session) else None


def who(request: Request) -> str:
    """Who asks, as events tell it."""
    session = session_of(request)
    return f"{'nobody' if session is None else session.who} from {_host(request)}"


def token_of(request: Request) -> str | None:
    """The name of the token that is asked with, whose limits hold; None: one without."""
    session = session_of(request)
    return None if session is None else session.name


def is_signed_in(request: Request) -> bool:
    """Whether the session the guard found still is one: it may have ended while a stream was open.

    Raises:
        DatabaseUnreachableError: a named token cannot be looked up.
    """
    board: Board = request.app.state.board
    found = board.access.known(_bearer(request), _cookie(request, board.access))
    if found is not None and found.digest:
        found = board.granted(found)
    return found is not None and found.may_visit(path_of(request))


def _host(request: Request) -> str:
    return request.client.host if request.client else "nowhere"


def _cookie(request: Request, access: Access) -> str:
    return request.cookies.get(access.cookie, "")


def _bearer(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(ASSETS)


def _same_origin(request: Request) -> bool:
    """Browsers name the page a write comes from; other clients name none."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _without(request: Request, secret: str) -> str:
    """The address that was asked for, without what opened it."""
    rest = [(k, v) for k, v in request.query_params.multi_items() if k != secret]
    return _local(path_of(request)) + (f"?{urlencode(rest)}" if rest else "")


def _local(path: str) -> str:
    """A path of this server: never another site's address."""
    parts = urlsplit(path)
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc
    return path if safe and all(c.isprintable() for c in path) else "/"


def _refuse(request: Request, status: int, why: str) -> Response:
    if "application/json" in request.headers.get("accept", "") or path_of(request).startswith("/api/"):
        body = json.dumps({"error": why})
        return Response(body, status, media_type="application/json", headers=_challenge(status))
    return PlainTextResponse(why, status, headers=_challenge(status))


def _challenge(status: int) -> dict[str, str]:
    return {"WWW-Authenticate": 'Bearer realm="hpo"'} if status == 401 else {}


async def _body(request: Request) -> bytes | None:
    """The whole body; None when it is too long."""
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > MAX_BODY:
        return None
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands an already read body on, then whatever comes (the client hanging up)."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
