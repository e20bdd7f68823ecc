"""The JSON schema says what the validator says, as far as a schema can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpo.spec import json_schema, parse_spec
from hpo.spec.reading import read_yaml

SCHEMA = json_schema()
STUDIES = sorted((Path(__file__).parents[2] / "objectives" / "studies").rglob("*.yaml"))

BASE: dict[str, Any] = {
    "study": "s",
    "objective": "m",
    "direction": "minimize",
    "budget": {"trials": 5},
    "space": {
        "x": {"type": "float", "low": 0, "high": 1},
        "opt": {"type": "categorical", "choices": ["a", "b"]},
    },
}

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether `value` keeps a schema; the part of JSON schema that ours uses."""
    if "$ref" in schema:
        target: Any = SCHEMA
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return fits(value, target)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    numeric = isinstance(value, bool) and "boolean" not in kinds
    checks = [
        any(isinstance(value, TYPES[kind]) for kind in kinds) and not numeric,
        value in schema.get("enum", [value]),
        value == schema.get("const", value),
        "anyOf" not in schema or any(fits(value, branch) for branch in schema["anyOf"]),
        all(fits(value, branch) for branch in schema.get("allOf", [])),
        "oneOf" not in schema or sum(fits(value, branch) for branch in schema["oneOf"]) == 1,
    ]
    if isinstance(value, int | float) and not isinstance(value, bool):
        checks += [
            value >= schema.get("minimum", value),
            value <= schema.get("maximum", value),
            "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
        ]
    if isinstance(value, str):
        checks += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)]
    if isinstance(value, list):
        checks += [len(value) >= schema.get("minItems", 0)]
        checks += [fits(item, schema.get("items", {})) for item in value]
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks += [
            len(value) >= schema.get("minProperties", 0),
            set(schema.get("required", [])) <= set(value),
        ]
        for key, item in value.items():
            inner = properties.get(key, others)
            checks.append(inner is True or (inner is not False and fits(item, inner)))
    return all(checks)


def test_the_schema_is_json_and_every_field_is_described() -> None:
    json.dumps(SCHEMA)
    sections = {"": SCHEMA, **SCHEMA["$defs"]}
    missing = [
        f"{name}.{field}"
        for name, section in sections.items()
        for field, definition in section.get("properties", {}).items()
        if not definition.get("description")
    ]
    assert missing == []


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_every_ready_study_file_fits_the_schema(file: Path) -> None:
    assert fits(read_yaml(file.read_bytes(), file.name).value, SCHEMA)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": None, "command": ["t", "{x}", 3, ["--opt", "{opt}"]]},
        {"sampler": "tpe"},
        {"sampler": {"name": "nsga2", "population_size": 5}},
        {"pruner": "median"},
        {"pruner": {"name": "asha", "max_epochs": 9}},
        {"pruner": {"name": "patient", "patience": 2, "wrapped": "median"}},
        {"pruner": {"name": "patient", "patience": 2, "wrapped": {"name": "threshold", "upper": 1}}},
        {"pruner": {"name": "patient", "patience": 2, "wrapped": None}},
        {"budget": {"seconds": 0.5, "target": -1}},
        {"enqueue": [{"x": 0.5}]},
        {"fixed": {"anything": [1, {"a": None}]}},
        {"space": BASE["space"] | {"y": {"type": "int", "low": 1, "high": 9, "when": {"opt": "a"}}}},
        {"space": BASE["space"] | {"y": {"type": "int", "low": 1, "high": 9, "when": {"opt": ["a", "b"]}}}},
        {"space": {"y": {"type": "categorical", "choices": {"s": [1], "l": [2]}}}},
        {"space": {"y": {"type": "categorical", "choices": [{"label": "s", "value": [1]}, 3, None]}}},
        {"space": {"y": {"type": "float", "low": 0, "high": 1, "points": [0.1, 0.2], "step": 0.1}}},
    ],
)
def test_what_the_validator_accepts_fits_the_schema(changes: dict[str, Any]) -> None:
    data = BASE | changes
    parse_spec(data)
    assert fits(data, SCHEMA)


def test_a_stored_spec_fits_the_schema() -> None:
    assert fits(parse_spec(BASE).model_dump(mode="json"), SCHEMA)


@pytest.mark.parametrize(
    "changes",
    [
        {"objctive": "m"},
        {"command": ["t"]},
        {"objective": None, "command": "t {x}"},
        {"objective": None, "command": [["t"], [["{x}"]]]},
        {"directions": ["minimize"]},
        {"direction": "up"},
        {"study": ""},
        {"study": "x" * 101},
        {"sampler": "grids"},
        {"sampler": {"name": "tpe", "n_startup": 1}},
        {"sampler": {"name": "tpe", "seed": -1}},
        {"pruner": "asha"},
        {"pruner": {"name": "asha"}},
        {"pruner": {"name": "percentile", "percentile": 101}},
        {"pruner": {"name": "patient", "patience": 2, "wrapped": "asha"}},
        {"budget": {"trials": 0}},
        {"budget": {"seconds": 0}},
        {"retry": {"lost": -1}},
        {"threads": 0},
        {"threads": True},
        {"enqueue": [{}]},
        {"space": {"x": {"type": "flaot", "low": 0, "high": 1}}},
        {"space": {"x": {"type": "float", "high": 1}}},
        {"space": {"x": {"type": "categorical", "choices": []}}},
        {"space": {"x": {"type": "categorical", "choices": [[1]]}}},
        {"space": {"x": {"type": "int", "low": 0, "high": 1, "when": {}}}},
    ],
)
def test_a_mistake_that_a_schema_can_see_does_not_fit(changes: dict[str, Any]) -> None:
    assert not fits(BASE | changes, SCHEMA)
