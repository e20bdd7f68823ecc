"""The OpenAPI 3.1 document of the API, made from its table of endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request

from hpo.dashboard import actions, shapes
from hpo.dashboard.board import Board

_REFERENCE = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request does not make sense for this study.",
    "401": "No token, or a wrong one.",
    "403": "This token or session may not do that.",
    "404": "No such study, trial, chart or action.",
    "503": "The database cannot be reached.",
}


@dataclass(frozen=True)
class Endpoint:
    """One operation: where, what it does, what it takes and gives."""

    path: str  # as Starlette writes it
    summary: str
    view: Callable[[Board, Request], Any]
    shape: type[Any]
    query: tuple[tuple[str, str, str], ...] = ()  # (name, JSON type, description)
    method: str = "GET"


def document(endpoints: Sequence[Endpoint], prefix: str) -> dict[str, Any]:
    """The whole document, the same every time."""
    used = sorted({item.shape for item in endpoints} | {shapes.Problem}, key=lambda shape: shape.__name__)
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        (shape, "serialization", TypeAdapter(shape)) for shape in used
    ]
    _, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for item in endpoints:
        path = prefix + re.sub(r":\w+}", "}", item.path)
        paths.setdefault(path, {})[item.method.lower()] = _operation(item)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hpo",
            "version": "1",
            "description": "Everything the dashboard shows, as JSON. NaN and infinities are null; times are "
            "ISO 8601 in UTC; durations are seconds.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The dashboard's token, or its view token to look only.",
                }
            },
        },
    }


def _operation(item: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _path_schema(name, kind),
        }
        for name, kind in re.findall(r"{(\w+)(?::(\w+))?}", item.path)
    ]
    for name, kind, description in item.query:
        schema: dict[str, Any] = {"type": kind}
        if kind == "array":
            schema["items"] = {"type": "string"}
        parameters.append({"name": name, "in": "query", "description": description, "schema": schema})
    answers: dict[str, Any] = {"200": _answer("Done.", item.shape.__name__)}
    answers |= {status: _answer(why, "Problem") for status, why in _ERRORS.items()}
    operation: dict[str, Any] = {
        "operationId": item.view.__name__.strip("_"),
        "summary": item.summary,
        "parameters": parameters,
        "responses": answers,
    }
    if item.method == "POST":
        operation["requestBody"] = {
            "content": {"application/json": {"schema": _BODY}},
            "description": "extend takes trials, seconds, epochs, target, patience; enqueue point and why; "
            "mark trial, star, tags, note; delete name; retry may take trial or count; the others nothing.",
        }
    return operation


def _path_schema(name: str, kind: str) -> dict[str, Any]:
    if name == "action":
        return {"type": "string", "enum": list(actions.ACTIONS)}
    if name == "over":
        return {"type": "string", "enum": ["trials", "epochs", "seconds", "values"]}
    return {"type": "integer" if kind == "number" else "string"}


def _answer(description: str, shape: str) -> dict[str, Any]:
    reference = {"$ref": _REFERENCE.format(model=shape)}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "trials": {"type": "integer", "description": "Further trials.", "minimum": 1},
        "seconds": {"type": "number", "description": "New budget of seconds, in all."},
        "epochs": {"type": "integer", "description": "New budget of epochs, in all."},
        "target": {"type": "number", "description": "New target value."},
        "patience": {"type": "integer", "description": "New number of trials without a better result."},
        "trial": {
            "description": 'The failed one to retry; default: all. To mark: "3,17"; default: the study.',
            "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
        },
        "count": {
            "type": "integer",
            "description": "Retry only if so many trials have failed, as a person was told who agreed.",
            "minimum": 1,
        },
        "point": {
            "description": 'Parameters to try next, as an object or as "lr=0.01 hidden=64".',
            "oneOf": [{"type": "object"}, {"type": "string"}],
        },
        "why": {"type": "string", "description": "The reason for the point, kept with it."},
        "star": {"type": "boolean"},
        "tags": {"type": "string", "description": 'Words to add; "-word" takes one away.'},
        "note": {"type": "string", "description": 'In place of the last one; "": none.'},
        "name": {"type": "string", "description": "The study's name again, to delete it."},
    },
}


if __name__ == "__main__":
    from hpo.dashboard import api

    print(json.dumps(document(api.ENDPOINTS, api.PREFIX), indent=2))
