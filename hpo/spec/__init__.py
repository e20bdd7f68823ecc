"""The study file: read, checked, and turned into a frozen `StudySpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from hpo.errors import SpecError
from hpo.spec.differences import spec_differences
from hpo.spec.fields import check_json, check_study_name
from hpo.spec.keeping import Keep
from hpo.spec.loading import load_spec, parse_spec
from hpo.spec.model import Budget, Direction, Retry, StudySpec
from hpo.spec.parameters import CategoricalParameter, Choice, FloatParameter, IntParameter
from hpo.spec.points import config_value as _config_value
from hpo.spec.schema import json_schema
from objectives.imports import ObjectivePath


def config_value(spec: StudySpec, name: str, choice: Any) -> Any:
    """What the objective's `config` holds where parameter `name` has the value `choice`.

    That is the value itself, except for a labelled choice, whose value the label stands for.
    """
    return _config_value(spec.space.get(name), choice)


def resolve(spec: StudySpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's `config`: the study's `fixed` values and the parameters of `point` together.

    Lists and mappings in it are copies, so that no trial can change another's.
    """
    parameters = {name: config_value(spec, name, value) for name, value in point.items()}
    config: dict[str, Any] = check_json(spec.fixed)
    return config | parameters


def validate_study_name(name: str) -> str:
    """`name` in composed Unicode, if a study can have it.

    Raises:
        SpecError: saying which rule it breaks.
    """
    try:
        return check_study_name(name)
    except PydanticCustomError as error:
        raise SpecError(f"the study's name {(error.context or {})['sentence']}") from None


__all__ = [
    "Budget",
    "CategoricalParameter",
    "Choice",
    "Direction",
    "FloatParameter",
    "IntParameter",
    "Keep",
    "ObjectivePath",
    "Retry",
    "StudySpec",
    "config_value",
    "json_schema",
    "load_spec",
    "parse_spec",
    "resolve",
    "spec_differences",
    "validate_study_name",
]
