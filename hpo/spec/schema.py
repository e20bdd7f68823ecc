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
    # `direction: minimize` stands for a list of one, and `command` in the place of `objective`.
    direction = {"type": "string", "enum": list(DIRECTIONS)}
    properties["direction"] = direction | {"description": "What to do with the objective's value."}
    properties["directions"] |= {"type": "array", "items": direction, "minItems": 1}
    schema["required"] = [name for name in schema["required"] if name not in ("directions", "objective")]
    kinds = {"objective": "string", "command": "array"}
    given = [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in kinds.items()]
    one_or_more = [{"required": ["direction"]}, {"required": ["directions"]}]
    schema["allOf"] = [{"oneOf": one_or_more}, {"oneOf": given}]
    wrapped = definitions["PatientPruner"]["properties"]["wrapped"]
    for field in (properties["sampler"], properties["pruner"], wrapped):
        _allow_bare_names(field, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "hpo study file"}


def _allow_bare_names(field: dict[str, Any], definitions: dict[str, Any]) -> None:
    """`sampler: tpe` stands for `{name: tpe}`, where no other option is required."""
    branches = field.pop("anyOf", None) or [{"oneOf": field.pop("oneOf")}]
    field.pop("discriminator", None)
    union = branches[0]
    union.pop("discriminator", None)
    models = [definitions[branch["$ref"].rpartition("/")[2]] for branch in union["oneOf"]]
    bare = [model["properties"]["name"]["const"] for model in models if model["required"] == ["name"]]
    field["anyOf"] = [{"enum": bare}, *branches]
