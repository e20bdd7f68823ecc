"""The study file: read, checked, and turned into a frozen `StudySpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.spec.differences import spec_differences
from hpo.spec.fields import check_json
from hpo.spec.loading import load_spec, parse_spec
from hpo.spec.model import Direction, StudySpec
from hpo.spec.parameters import CategoricalParameter, Choice, FloatParameter, IntParameter
from hpo.spec.points import config_value
from hpo.spec.schema import json_schema
from hpo.spec.sections import Budget, Keep, Retry
from objectives.imports import ObjectivePath


def resolve(spec: StudySpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's `config`: the study's `fixed` values and the parameters of `point` together.

    Lists and mappings in it are copies, so that no trial can change another's.
    """
    parameters = {name: config_value(spec.space.get(name), value) for name, value in point.items()}
    config: dict[str, Any] = check_json(spec.fixed)
    return config | parameters


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
    "json_schema",
    "load_spec",
    "parse_spec",
    "resolve",
    "spec_differences",
]
