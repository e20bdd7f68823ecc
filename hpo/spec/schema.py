"""The JSON schema of a study file, by which editors complete and check it."""

from __future__ import annotations

from typing import Any

from hpo.spec.model import DIRECTIONS, StudySpec


def json_schema() -> dict[str, Any]:
    """The schema (2020-12) of a study file, with the short forms a person may write."""
    schema = StudySpec.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    properties["confirm"]["anyOf"].insert(0, {"type": "boolean"})
    properties["proposals"]["anyOf"].append({"type": "string"})
    one = [{"type": "string"}, {"$ref": "#/$defs/Channel"}]
    properties["notify"]["items"] = {"anyOf": one}
    properties["notify"] = {"anyOf": [*one, properties["notify"]]} | {
        name: properties["notify"].pop(name) for name in ("description", "default", "title")
    }
    _allow_one_direction(schema)
    _allow_a_command(schema)
    for owner, key in ((properties, "sampler"), (properties, "pruner")):
        _allow_bare_names(owner[key], definitions)
    _allow_bare_names(definitions["PatientPruner"]["properties"]["wrapped"], definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "hpo study file"}


def _allow_one_direction(schema: dict[str, Any]) -> None:
    """`direction: minimize` stands for a list of one."""
    direction = {"type": "string", "enum": list(DIRECTIONS)}
    description = "What to do with the objective's value."
    schema["properties"]["direction"] = direction | {"description": description}
    schema["properties"]["directions"] |= {"type": "array", "items": direction, "minItems": 1}
    schema["required"] = [name for name in schema["required"] if name != "directions"]
    schema["allOf"] = [{"oneOf": [{"required": ["direction"]}, {"required": ["directions"]}]}]


def _allow_a_command(schema: dict[str, Any]) -> None:
    """`command` stands in the place of `objective`."""
    schema["required"].remove("objective")
    kinds = {"objective": "string", "command": "array"}
    given = [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in kinds.items()]
    schema["allOf"].append({"oneOf": given})


def _allow_bare_names(field: dict[str, Any], definitions: dict[str, Any]) -> None:
    """`sampler: tpe` stands for `{name: tpe}`, where no other option is required."""
    branches = field.pop("anyOf", None) or [{"oneOf": field.pop("oneOf")}]
    field.pop("discriminator", None)
    union = branches[0]
    union.pop("discriminator", None)
    models = [definitions[branch["$ref"].rpartition("/")[2]] for branch in union["oneOf"]]
    bare = [model["properties"]["name"]["const"] for model in models if model["required"] == ["name"]]
    field["anyOf"] = [{"enum": bare}, *branches]
