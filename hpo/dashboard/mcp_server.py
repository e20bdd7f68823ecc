"""`hpo mcp`: `hpo.dashboard.tools` by the Model Context Protocol, over standard streams or HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hpo.dashboard import tools
from hpo.dashboard.access import Access, Role, Session, make_access
from hpo.dashboard.board import granted
from hpo.dashboard.tools import TOOLS, Caller, schema_of
from hpo.errors import HpoError, UserError
from hpo.settings import Settings
from hpo.wiring import told
from storage.database.engine import Database
from storage.database.errors import StorageError
from storage.queue.events import operator
from storage.queue.tokens import digest_of

INSTRUCTIONS = (
    "Hyperparameter searches that survive crashes. create a study, run it, wait for its end, confirm its "
    "winner, read the report. Answers say what to do next; the search goes on without this server."
)


@dataclass(frozen=True)
class Served:
    """What one server lets its callers use."""

    database: Database
    settings: Settings
    code: Path
    commands: bool

    def caller(self, session: Session) -> Caller:
        """Who asks, by their session."""
        who = f"{operator()} by mcp" if session.name is None else session.who
        database = self.database.acting_as(who, session.name)
        return Caller(database, session, self.settings, self.code, self.commands)


def make_server(caller_of: Callable[[Any], Caller | None]) -> Server[Any]:
    """The server. `caller_of` says who asks, by the HTTP request (None over standard streams), if anybody."""

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        listed = [
            types.Tool(name=name, description=about, input_schema=schema)
            for name in TOOLS
            for about, schema in [schema_of(name)]
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(
        context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        call = partial(_answer, lambda: caller_of(context.request), params.name, params.arguments or {})
        text, wrong = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=wrong)

    return Server("hpo", instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool)


def _answer(who: Callable[[], Caller | None], name: str, asked: dict[str, Any]) -> tuple[str, bool]:
    """A tool's answer as JSON; or why there is none, and that it is that."""
    try:
        caller = who()
        if caller is None:
            return "this token was revoked, or never was one", True
        return json.dumps(tools.use(caller, name, asked), ensure_ascii=False, default=str), False
    except HpoError as error:
        return str(error), True
    except StorageError as error:
        return str(told(error)), True


def serve_stdio(served: Served, token: str | None, *, view: bool) -> None:
    """Answer on standard output what is asked on standard input, until that is closed.

    Raises:
        UserError: the token is not good.
    """
    session = Session(Role.VIEW if view else Role.ACT, None, digest_of(token) if token else "")

    def caller_of(_request: Any) -> Caller | None:
        now = granted(served.database, session) if session.digest else session
        return None if now is None else served.caller(now)

    async def serve() -> None:
        server = make_server(caller_of)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    if caller_of(None) is None:
        raise UserError("HPO_TOKEN holds no token that is good; `hpo token add` makes one")
    anyio.run(serve)


def serve_http(served: Served, port: int, say: Callable[[str], None]) -> None:
    """Answer at http://127.0.0.1:PORT/mcp who sends a right token, until interrupted.

    Other machines come by a tunnel. `say` tells the token that is made for this start.
    """
    access = make_access("127.0.0.1", port, None, None)
    say(f"http://127.0.0.1:{port}/mcp  Authorization: Bearer {access.token}")
    uvicorn.run(http_app(served, access), host="127.0.0.1", port=port, log_level="warning")


def http_app(served: Served, access: Access) -> Starlette:
    """The application, whose every request must bring a token."""
    app = make_server(lambda request: served.caller(request.scope["hpo.session"])).streamable_http_app(
        json_response=True, stateless_http=True
    )
    app.add_middleware(Bearer, access=access, database=served.database)
    return app


class Bearer:
    """ASGI middleware: nobody comes further without a right token in its header."""

    def __init__(self, app: ASGIApp, access: Access, database: Database) -> None:
        self._app = app
        self._access = access
        self._database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        host = "" if request.client is None else request.client.host
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        session = self._access.known(sent, "") if sent else None
        if session is not None and session.digest:
            try:
                session = await anyio.to_thread.run_sync(granted, self._database, session)
            except StorageError as error:
                await JSONResponse({"error": str(error)}, 503)(scope, receive, send)
                return
        if session is None:
            status = 429 if self._access.failures.too_many(host) else 401
            if sent and status == 401:
                self._access.failures.note(host)
            why = "send the token: Authorization: Bearer TOKEN" if status == 401 else "wait a minute"
            await JSONResponse({"error": why}, status)(scope, receive, send)
            return
        scope["hpo.session"] = session
        await self._app(scope, receive, send)
