"""Hostile input, drawn by hypothesis: study files, requests with a token, command lines, objectives."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import yaml
from hypothesis import strategies as st

from hpo.dashboard.actions import ACTIONS
from hpo.dashboard.app import routes
from tests.support.command import every_command
from tests.support.study_files import FULL

BIG = [2**31, 2**63, 2**64, -(2**63), 10**40, int("9" * 400)]
ODD = ["", "²", "٣", "-1", "0", "nan", "inf", "1e999", "-0", "true", "null", "..", "%00", "\x00", "\x1b[2J"]
ODD += [
    "\u202e",
    "é",
    "größe",
    "'",
    '"',
    "<img src=x>",
    "{{7*7}}",
    "param:x",
    "-param:",
    "digits",
    "digits/9",
]
ODD += [
    "9" * 30,
    "9" * 500,
    "9" * 5000,
    "n" * 300,
    "x=1",
    "x=nan",
    "=",
    "a" * 70_000,
    "\ud800",
    "s3://u:pw@h",
]

texts = st.sampled_from(ODD) | st.text(max_size=20) | st.integers().map(str) | st.sampled_from(BIG).map(str)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(BIG)
    | st.floats()
    | texts.filter(lambda t: len(t) < 999)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    """A right study file with parts replaced or removed, or its bytes damaged; or no file at all."""
    data: Any = copy.deepcopy(yaml.safe_load(FULL))
    data["limits"] = {"memory": "8GB", "processes": 64, "log": "50MB", "attribute": "1MB"}
    data["keep"] = "best 5, last 2"
    for _ in range(draw(st.integers(0, 3))):
        holder = data
        while isinstance(holder, dict | list) and holder:
            key: Any = draw(
                st.sampled_from(sorted(holder, key=str) if isinstance(holder, dict) else range(len(holder)))
            )
            if not isinstance(holder[key], dict | list) or draw(st.booleans()):
                if draw(st.booleans()):
                    holder[key] = draw(values)
                else:
                    del holder[key]
                break
            holder = holder[key]
    try:
        content = json.dumps(data) if draw(st.booleans()) else yaml.safe_dump(data, allow_unicode=True)
        raw = content.encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError):
        raw = repr(data).encode("utf-8", "replace")
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(raw)))
        junk = draw(
            st.binary(max_size=30)
            | st.sampled_from([b"[" * 5000, b"{a: " * 300, b"&a [*a, *a]", b"\n---\n", b"!!python/x"])
        )
        raw = raw[:place] + junk + raw[place + draw(st.integers(0, 50)) :]
    return raw


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], bytes]:
    """Method, address, headers and body: a route with odd values in its places."""
    route = draw(st.sampled_from([route for route in routes() if route.path not in ("/login", "/logout")]))
    filled = route.path
    good = {
        "study": "digits",
        "trial": "9",
        "attempt": "1",
        "chart": "history-1",
        "over": "trials",
        "rest": "studies/1",
    }
    good |= {"file": "page.html", "action": draw(st.sampled_from(list(ACTIONS)))}
    for part in route.param_convertors:
        value = good[part] if draw(st.integers(0, 2)) else draw(texts)
        kind = filled.split("{" + part, 1)[1].split("}", 1)[0]
        filled = filled.replace(
            "{" + part + kind + "}", quote(value.encode("utf-8", "replace")[:60_000], safe="")
        )
    names = [
        "page",
        "size",
        "sort",
        "state",
        "q",
        "attempt",
        "start",
        "trials",
        "metric",
        "log",
        "study",
        "after",
        "all",
    ]
    asked = draw(st.lists(st.tuples(st.sampled_from(names), texts.map(lambda text: text[:2000])), max_size=2))
    query = "&".join(f"{name}={quote(value.encode('utf-8', 'replace'), safe='')}" for name, value in asked)
    method = draw(st.sampled_from(sorted(route.methods or {"GET"})))
    fields = ["point", "trial", "count", "trials", "seconds", "target", "sure", "body", "version"]
    body = b""
    if method not in ("GET", "HEAD"):
        form = draw(st.dictionaries(st.sampled_from(fields), values, max_size=3))
        body = draw(
            st.just(json.dumps(form).encode()) | st.binary(max_size=50) | st.sampled_from([b"[" * 9999, b"1"])
        )
    headers = {"Accept": draw(st.sampled_from(["application/json", "text/html", "*/*", ""]))}
    return method, filled + (f"?{query}" if query else ""), headers, body


# Every command that ends by itself, not those that serve or work; what is new joins by itself.
LASTING = ("run", "worker", "confirm", "wait", "dashboard", "mcp", "launch start")
COMMANDS = {
    name: sorted({option for one in command.params for option in one.opts if option.startswith("-")})
    for name, command in every_command()
    if name not in LASTING
}
FOLLOWING = ("--follow", "-f")
OPTIONS = sorted({option for options in COMMANDS.values() for option in options} - set(FOLLOWING))
WORDS = ["s", "s/0", "s.yaml", "json", "+1", "digits-mlp", "digits-mlp/0", "view", "act", "x.csv"]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with its options, others' and odd words after it."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    own = [option for option in COMMANDS[name] if option not in FOLLOWING] or OPTIONS
    word = st.sampled_from(WORDS) | texts.map(lambda text: text[:5000].replace("\x00", ""))
    after = st.sampled_from(own) | st.sampled_from(OPTIONS) | word | st.sampled_from(WORDS)
    return name.split() + draw(st.lists(after, max_size=4))


RAISED = [
    "ValueError('x')",
    "KeyboardInterrupt()",
    "SystemExit(draw)",
    "GeneratorExit()",
    "type('B', (BaseException,), {})()",
    "type('M', (Exception,), {'__str__': lambda s: 1 / 0})()",
    "RecursionError('deep')",
    "ValueError('\\ud800\\x00\\x1b')",
    "MemoryError()",
    "StopIteration(1)",
    "optuna.TrialPruned()",
    "Exception('x' * 10**6)",
    "OSError(2, 'no', '\\udcff')",
]
STEPS = [
    "trial.report({v}, {n})",
    "trial.set_user_attr({t}, {v})",
    "trial.log(**{{{t}: {v}}})",
    "trial.suggest_float({t}, {v}, {v})",
]
STEPS += [
    "trial.suggest_int({t}, 0, {n})",
    "trial.suggest_categorical({t}, [{v}, {v}])",
    "trial.should_prune()",
    "print({t} * 99)",
]
STEPS += [
    "trial.study.stop",
    "trial.study.set_user_attr({t}, {v})",
    "trial.study.enqueue_trial({{{t}: {v}}})",
    "trial.study.ask()",
]
STEPS += [
    "trial.checkpoint.save({v}, {n})",
    "trial.artifact({t})",
    "trial.number",
    "sys.setrecursionlimit(60)",
]
PYTHON = [
    "None",
    "True",
    "1",
    "-1",
    "2**70",
    "float('nan')",
    "float('inf')",
    "1e308",
    "'x'",
    "'\\ud800'",
    "'\\x00'",
    "b'x'",
]
PYTHON += [
    "object()",
    "[[1]] * 9",
    "{1: 2}",
    "(1, 2)",
    "lambda: 1",
    "'y' * 10**5",
    "1j",
    "trial",
    "range(3)",
    "[]",
    "()",
]


@st.composite
def objectives(draw: st.DrawFn) -> str:
    """The body of a faulty objective, as Python."""
    expression = st.sampled_from(PYTHON)
    lines = ["draw = 3"]
    for _ in range(draw(st.integers(0, 3))):
        step = draw(st.sampled_from(STEPS))
        name = draw(st.sampled_from(["'x'", "'y'", "''", "'\\x00'", "'\\ud800'", "'n' * 999", "None", "3"]))
        lines.append(
            step.format(v=draw(expression), t=name, n=draw(st.sampled_from(["0", "1", "-1", "2**70", "'a'"])))
        )
    end = f"raise {draw(st.sampled_from(RAISED))}" if draw(st.booleans()) else f"return {draw(expression)}"
    return "\n".join([*lines, end])
