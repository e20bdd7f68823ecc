"""Field types of the study file that pydantic lacks: exact numbers, JSON values, safe names."""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from hpo.spec.problems import problem, shown

Scalar = str | int | float | bool | None
SCALAR_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}

MAX_NAME = 100  # characters of a study, parameter or field name
MAX_NAME_BYTES = 200  # of a study's name, which becomes the name of a directory
_STUDY_NAME = re.compile(r"[^\W_](?:[\w .+-]*[\w+-])?")
_MAX_WHOLE = 2**53  # Optuna stores every parameter as a 64-bit float


class Section(BaseModel):
    """Base of every part of a study file: unknown keys are refused, values never change."""

    # Built where it is used: most parts only stand within others.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def whole(value: Any) -> int:
    """`value` as an int, if it is a whole number between -2**53 and 2**53 (1e3 is one, true is not)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 is a whole number too
    if isinstance(value, bool) or not isinstance(value, int):
        raise problem(f"must be a whole number, got {shown(value)}")
    if abs(value) > _MAX_WHOLE:
        raise problem(f"must lie between -2**53 and 2**53, got {shown(value)}")
    return value


def number(value: Any) -> float:
    """`value` as a float, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise problem(f"must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise problem(f"must be a finite number, got {shown(value)}")
    return result


def share(value: Any) -> float | None:
    """`30 %` or 0.3 as 0.3; None as it is."""
    if value is None:
        return None
    text = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?) ?%", value.strip()) if isinstance(value, str) else None
    found = float(text[1]) / 100 if text else number(value)
    if not 0 <= found <= 1:
        raise problem(f"must be a share from 0 % to 100 %, got {shown(value)}")
    return found


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise problem(f"must be true or false, got {shown(value)}")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise problem(f"must be text, got {shown(value)}; put it in quotes if it is meant as text")
    return value


def check_json(value: Any, *at: Any) -> Any:
    """`value` if it consists of JSON types with finite numbers and text keys.

    Raises:
        PydanticCustomError: pointing at the part that is not JSON.
    """
    match value:
        case None | str() | int() | float():
            return check_scalar(value, *at)
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise problem(f"has the key {shown(key)}; keys must be text: put it in quotes", *at)
            return {key: check_json(item, *at, key) for key, item in value.items()}
        case list() | tuple():
            return [check_json(item, *at, index) for index, item in enumerate(value)]
    raise problem(f"must be text, a number, true, false, null, a list or a mapping, got {shown(value)}", *at)


def check_scalar(value: Any, *at: Any) -> Scalar:
    """`value` if it is text, a finite number, true, false or null.

    Raises:
        PydanticCustomError: for anything else.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise problem(f"must be a finite number, got {shown(value)}", *at)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise problem(f"must be text, a number, true, false or null, got {shown(value)}", *at)


def check_name(name: Any, what: str, *at: Any) -> str:
    """`name` if it can name a parameter or a fixed value.

    Raises:
        PydanticCustomError: when it is no text, empty, too long or not printable.
    """
    if not isinstance(name, str):
        raise problem(f"the name {shown(name)} must be text: put it in quotes", *at)
    if not name.strip():
        raise problem(f"a {what} needs a name that is not empty", *at)
    if len(name) > MAX_NAME:
        raise problem(
            f"the name {shown(name)} has {len(name)} characters; at most {MAX_NAME} are allowed", *at
        )
    if not name.isprintable():
        raise problem(f"the name {shown(name)} holds a character that cannot be printed", *at)
    return name


def check_study_name(name: Any) -> str:
    """A study's name in Unicode's composed form (NFC), if it can safely name a directory.

    Letters and digits of any script, space, `_`, `-`, `.` and `+`; starts with a letter or
    digit; at most 100 characters and 200 bytes.

    Raises:
        PydanticCustomError: saying which rule is broken.
    """
    text = unicodedata.normalize("NFC", _text(name))
    if not text:
        raise problem("must not be empty")
    if len(text) > MAX_NAME or len(text.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise problem(
            f"has {len(text)} characters ({shown(text[:20])}...); at most {MAX_NAME} characters"
            f" and {MAX_NAME_BYTES} bytes are allowed, because the name becomes a directory"
        )
    if not text.isprintable():
        raise problem(f"holds a character that cannot be printed: {shown(text)}")
    if not _STUDY_NAME.fullmatch(text):
        raise problem(
            "must start with a letter or digit, hold only letters, digits, spaces and _ - . +,"
            f" and not end in a dot or space, got {shown(text)}"
        )
    return text


Whole = Annotated[int, BeforeValidator(whole)]
Number = Annotated[float, BeforeValidator(number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
StudyName = Annotated[
    str,
    BeforeValidator(check_study_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME}),
]


@dataclass(frozen=True)
class _Bound:
    """A limit on a number, for the check and for the JSON schema alike."""

    keyword: str
    words: str
    keeps: Callable[[Any, float], bool]
    limit: float

    def check(self, value: Any) -> Any:
        """`value`, if it keeps the limit."""
        if not self.keeps(value, self.limit):
            raise problem(f"must be {self.words} {self.limit:,}, got {shown(value)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {self.keyword: self.limit}


at_least = partial(_Bound, "minimum", "at least", operator.ge)
at_most = partial(_Bound, "maximum", "at most", operator.le)
above = partial(_Bound, "exclusiveMinimum", "above", operator.gt)
