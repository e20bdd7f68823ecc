"""`hpo mcp`, driven by a scripted client: no language model, the protocol's own client, real processes."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from starlette.testclient import TestClient

from hpo.dashboard.access import Role, Session, make_access
from hpo.dashboard.board import granted
from hpo.dashboard.mcp_server import Served, http_app, make_server
from hpo.dashboard.tools import TOOLS
from hpo.settings import Settings
from hpo.wiring import open_storage
from storage.queue import tokens
from tests.end_to_end.workplace import Workplace, X
from tests.support.command import every_command, hpo_environment, those_running

SKILL = Path(__file__).parents[2] / "docs" / "SKILL.md"
PARABOLA_ = {
    "study": "s",
    "objective": "s.py",
    "direction": "minimize",
    "sampler": "random",
    "budget": {"trials": 10},
    "proposals": 0.3,
    "space": X,
}

OWNER = Session(Role.ACT, None)
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("look", {"study": "t"}, "there is no study named t"),
    ("look", {"studdy": "s"}, "studdy: Unexpected keyword argument. look takes study, where, sort, page"),
    (
        "enqueue",
        {"study": "s", "point": {"x": 1}},
        "why: Missing required argument. enqueue takes study, point, why",
    ),
    ("enqueue", {"study": "s", "point": {"y": 1}, "why": "?"}, "y"),
    ("wait", {"study": "s", "what": "luck"}, "one of end, best, failure, trials=50, confirmed"),
    ("explain", {"study": "s", "trial": 7}, "s has no trial 7; look with sort: number lists them"),
    ("confirm", {"study": "s"}, "a result is confirmed when the search has ended"),
    ("create", {"spec": "study: s"}, "objective is required"),
    ("create", {"spec": {**PARABOLA_, "objective": None, "command": ["x"]}}, "without --allow-commands"),
    ("steer", {"study": "s", "action": "delete"}, "action: Input should be 'pause', 'resume',"),
    ("fly", {}, "there is no tool 'fly'; there are create, run"),
]


class Agent:
    """Calls tools, counts what it asks and what it is told."""

    def __init__(self) -> None:
        self.calls, self.bytes = 0, 0

    async def ask(self, client: Client, tool: str, wrong: bool = False, **asked: Any) -> Any:
        answer = await client.call_tool(tool, asked)
        (content,) = answer.content
        self.calls += 1
        self.bytes += len(content.text.encode())
        assert bool(answer.is_error) is wrong, content.text
        return content.text if wrong else json.loads(content.text)


def steps() -> list[tuple[str, dict[str, Any]]]:
    """The calls of docs/SKILL.md, word by word."""
    blocks = re.findall(r"^```json\n(.*?)^```", SKILL.read_text(), re.MULTILINE | re.DOTALL)
    return [(call["tool"], call["arguments"]) for call in map(json.loads, blocks)]


def test_who_follows_the_skill_has_a_confirmed_winner_in_ten_calls_though_the_server_dies(
    place: Workplace,
) -> None:
    """The search goes on without the server; the next one finds it, and repeats do no harm."""
    agent, script, answers = Agent(), steps(), dict[str, Any]()
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "hpo", "mcp"], cwd=place.path, env=hpo_environment()
    )
    killed_after = [name for name, _ in script].index("run")

    async def follow(part: list[tuple[str, dict[str, Any]]], *, kill: bool) -> None:
        async with Client(stdio_client(server), mode="legacy") as client:
            for name, asked in part:
                answers[f"{name} {asked.get('what', '')}".strip()] = await agent.ask(client, name, **asked)
            if kill:
                for child in those_running("hpo mcp", psutil.Process().children(recursive=True)):
                    child.kill()

    with suppress(Exception):  # the server dies under it
        anyio.run(partial(follow, script[: killed_after + 1], kill=True))
    assert answers.keys() == {"create", "enqueue", "run"}
    assert answers["create"]["did"] == "created"
    anyio.run(partial(follow, [script[0], *script[killed_after + 1 :]], kill=False))
    assert answers["create"]["did"].startswith("it was there already")
    assert (answers["wait end"]["happened"], answers["wait end"]["done"]) == ("end", "5 of 5")
    assert answers["wait end"]["next"] == "confirm digits"
    sure = answers["wait confirmed"]
    assert sure["confirmation"]["done"]
    assert sure["chosen"] == sure["confirmation"]["winner"]
    assert answers["explain"]["why"].endswith('proposed it, because: "wider nets learn faster".')
    assert "1 trial was proposed" in answers["report"]["markdown"]
    assert agent.calls <= 10
    assert agent.bytes <= 20_000
    assert place.look("audit", "digits", "--format", "json").check().json["tickets"] == 5


def test_every_command_of_the_skill_is_one(place: Workplace) -> None:
    """Its options, too; the rest of the line is as a person would type it."""
    commands = dict(every_command())
    for line in re.findall(r"`hpo ([^`]+)`", SKILL.read_text()):
        words = shlex.split(line)
        name = next(n for n in (" ".join(words[:2]), words[0]) if n in commands)
        options = {option for one in commands[name].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.fixture
def served(place: Workplace) -> Served:
    place.study("s")
    settings = Settings(f"sqlite:///{place.path / 'hpo.db'}", str(place.path / "artifacts"))
    return Served(open_storage(settings), settings, place.path, commands=False)


def token_for(served: Served, name: str, may: str = "act", **limits: float) -> str:
    made = served.database.write(lambda c: tokens.add(c, name, may, None, limits))
    assert made is not None
    return made


def caller_with(served: Served, token: str) -> Callable[[Any], Any]:
    def caller(_request: Any) -> Any:
        session = granted(served.database, Session(Role.VIEW, None, tokens.digest_of(token)))
        return None if session is None else served.caller(session)

    return caller


def test_two_agents_at_once_keep_the_budget_exact_and_their_tokens_limits(served: Served) -> None:
    """One study is made of two; of points and of trials they get no more together than may be."""
    server = make_server(caller_with(served, token_for(served, "ci", trials=15)))
    done: list[str] = []

    async def act(number: int) -> None:
        agent = Agent()
        async with Client(server) as client:
            done.append((await agent.ask(client, "create", spec=PARABOLA_))["did"])
            for n in range(3):
                point = {"x": number + n / 10}
                answer = await client.call_tool("enqueue", {"study": "s", "point": point, "why": "why not"})
                done.append("refused" if answer.is_error else "given")
            answer = await client.call_tool("steer", {"study": "s", "action": "extend", "trials": 4})
            done.append(f"more {not answer.is_error}")

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(act, 1)
            group.start_soon(act, 2)

    anyio.run(both)
    assert done.count("created") == 1
    assert done.count("given") in (3, 4), (
        "of 10 trials or of 14, as the one came before the other's extension"
    )
    assert sorted(one for one in done if one.startswith("more")) == ["more False", "more True"]
    database = served.database
    grant = database.read(lambda c: tokens.all_tokens(c))[0]
    assert (grant.limits, grant.spent) == ({"trials": 15.0}, {"trials": 14.0})


def test_rights_are_the_tokens_and_mistakes_are_answered_with_what_to_do(served: Served) -> None:
    view, agent = token_for(served, "viewer", "view"), Agent()

    async def try_all() -> None:
        async with Client(make_server(lambda _request: served.caller(OWNER))) as client:
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == list(TOOLS)
            assert len(listed.model_dump_json()) < 9000
            await agent.ask(client, "create", spec=PARABOLA_)
            for tool, asked, said in MISTAKES:
                assert said in await agent.ask(client, tool, wrong=True, **asked)
            assert (await agent.ask(client, "look"))["studies"] == [
                {"study": "s", "state": "running", "done": 0}
            ]
            assert (await agent.ask(client, "look", study="s", sort="number"))["trials"] == []
            assert (await agent.ask(client, "explain", study="s"))["events"][0]["what"] == "create"
        async with Client(make_server(caller_with(served, view))) as client:
            assert (await agent.ask(client, "look", study="s"))["done"] == "0 of 10"
            assert "may look, but not run" in await agent.ask(client, "run", wrong=True, study="s")
        served.database.write(lambda c: tokens.revoke(c, "viewer"))
        async with Client(make_server(caller_with(served, view))) as client:
            assert "was revoked" in await agent.ask(client, "look", wrong=True)

    anyio.run(try_all)


def test_over_http_nobody_comes_in_without_a_token(served: Served, tmp_path: Path) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    token = token_for(served, "ci", "view")
    with TestClient(
        http_app(served, make_access("127.0.0.1", 8765, None, None)), "http://127.0.0.1:8765"
    ) as client:

        def post(**headers: str) -> Any:
            return client.post("/mcp", json=asked, headers={**accept, **headers})

        assert post().status_code == 401
        assert post(Authorization="Bearer hpo_wrong").status_code == 401
        right = {"Authorization": f"Bearer {token}"}
        assert [tool["name"] for tool in post(**right).json()["result"]["tools"]] == list(TOOLS)
        assert post(**right, Host="evil.example").status_code == 421
        assert post(**right, Origin="http://evil.example").status_code == 403
        served.database.write(lambda c: tokens.revoke(c, "ci"))
        assert post(**right).status_code == 401
