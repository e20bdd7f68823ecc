"""optuna-dashboard at its own addresses, behind our guard: it has no authentication of any kind."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from optuna.storages import BaseStorage, get_storage
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hpo.dashboard.guard import path_of
from hpo.errors import DatabaseError, NotFoundError, UserError
from storage.database.faults import is_unreachable, reason

log = logging.getLogger(__name__)

# It cannot be mounted under a prefix; ours stay clear of these (and /api/v1/ is matched before /api/).
PREFIXES = ("/dashboard", "/api/", "/csv/", "/artifacts/", "/static/")
_READING = ("GET", "HEAD")
_STUDY = re.compile(r"/(?:api/studies|csv)/(?P<study>[0-9]+)(?:/(?P<trial>[0-9]+))?(?=/|$)")
_NOTE = re.compile(r"/api/studies/[0-9]+(/[0-9]+)?/note")  # of a study or a trial: all that it may write
_NUMBER = re.compile(r"[0-9]{1,9}")  # small enough for any database
_NUMBERS = re.compile(rf"{_NUMBER.pattern}(,{_NUMBER.pattern})*|")
_ASKED = {"after": _NUMBER, "trial_ids": _NUMBERS}  # what it takes for numbers in an address
_REFUSED = (
    "optuna-dashboard shows studies here and keeps notes; it does not delete, rename, create or tell, which "
    "workers would not hear of. Use the study's page of this dashboard, or the commands of hpo."
)
_DROPPED = ("server", "date", "content-length", "connection")


class _Note(BaseModel):
    """What its pages send when somebody has written a note."""

    model_config = ConfigDict(strict=True)

    body: Annotated[str, Field(pattern=r"^[^\x00]*$")]  # PostgreSQL takes no NUL in a text
    version: Annotated[int, Field(ge=0, lt=2**31)]


class OptunaDashboard:
    """An ASGI application that calls optuna-dashboard (WSGI) in a thread.

    It is given a cached storage: given a URL it would read everything anew at each poll. The guard in
    front lets nobody write but who may act, and then only notes: whatever else it can write goes past the
    leases and our own tables.
    """

    def __init__(self) -> None:
        self._wsgi: Callable[..., Iterable[bytes]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if not _allowed(request.method, path_of(request)):
            await JSONResponse({"error": _REFUSED, "reason": _REFUSED}, 403)(scope, receive, send)
            return
        database = request.app.state.board.database
        if self._wsgi is None:
            self._wsgi = _application(request.app.state, database)
        body = await request.body()
        _check(request, body)
        try:
            await run_in_threadpool(_find, get_storage(database.rdb), path_of(request))
            response = await run_in_threadpool(_call, self._wsgi, request, body)
        except Exception as error:
            if is_unreachable(error):
                raise DatabaseError(reason(database.url, error)) from error
            raise
        await response(scope, receive, send)


def _allowed(method: str, path: str) -> bool:
    """Named one by one: what a later version adds is refused until it is looked at."""
    return method in _READING or (method == "PUT" and _NOTE.fullmatch(path) is not None)


def _check(request: Request, body: bytes) -> None:
    """What it would answer with an error of its own.

    Raises:
        UserError: a number of the address is none, or a note is not of its form.
    """
    for name, form in _ASKED.items():
        for value in request.query_params.getlist(name):
            if not form.fullmatch(value):
                raise UserError(f"{name} must be a whole number of at most 9 digits, got {value[:40]!r}")
    if request.method == "PUT":
        try:
            _Note.model_validate_json(body)
        except ValidationError as error:
            raise UserError(f"this is no note: {error.errors(include_url=False)[0]['msg']}") from None


def _find(storage: BaseStorage, path: str) -> None:
    """Raises NotFoundError where the study or trial that the path names is not there."""
    named = _STUDY.match(path)
    if named is None:
        return
    try:
        if not all(_NUMBER.fullmatch(number) for number in named.groups() if number is not None):
            raise KeyError
        storage.get_study_name_from_id(int(named["study"]))
        if named["trial"] is not None:
            storage.get_trial(int(named["trial"]))
    except KeyError:
        raise NotFoundError("Optuna has no study or trial of this number here.") from None


def _application(state: Any, database: Any) -> Callable[..., Iterable[bytes]]:
    """One application, and one cache, for all its addresses."""
    if getattr(state, "optuna_dashboard", None) is None:
        from optuna_dashboard import wsgi

        made = wsgi(get_storage(database.rdb))
        made.catchall = False  # its error pages show tracebacks
        state.optuna_dashboard = made
    found: Callable[..., Iterable[bytes]] = state.optuna_dashboard
    return found


def _call(application: Callable[..., Iterable[bytes]], request: Request, body: bytes) -> Response:
    started: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _info: Any = None) -> Callable[..., None]:
        started.append((int(status.split(" ", 1)[0]), headers))
        return lambda _data: None

    found = application(_environ(request, body), start_response)
    try:
        content = b"".join(found)
    finally:
        close = getattr(found, "close", None)
        if close is not None:
            close()
    status, headers = started[-1]
    response = Response(content, status)
    del response.headers["content-length"]
    for name, value in headers:
        if name.lower() not in _DROPPED:
            response.headers.append(name, value)
    response.headers["content-length"] = str(len(content))
    return response


def _environ(request: Request, body: bytes) -> dict[str, Any]:
    """The request as PEP 3333 describes it; neither cookie nor token is passed on."""
    host, port = request.scope.get("server") or ("localhost", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path_of(request).encode().decode("latin-1"),
        "QUERY_STRING": request.scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",  # a note is the only body it is given, and was read as such
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name in ("accept", "accept-encoding", "accept-language", "host", "if-modified-since", "user-agent"):
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = request.headers.get(name, "")
    return environ
