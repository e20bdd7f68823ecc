"""The parameters of a search space: float, int and categorical, each optionally conditional."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_serializer,
    model_validator,
)

from hpo.spec.fields import (
    SCALAR_SCHEMA,
    Flag,
    Number,
    Scalar,
    Section,
    Whole,
    check_json,
    check_scalar,
    number,
    whole,
)
from hpo.spec.problems import problem, shown, within

MAX_LABEL = 200  # characters of a choice's label


def _conditions(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise problem(
            "must name parameters and the values they need, such as {optimizer: [momentum]},"
            f" got {shown(value)}"
        )
    conditions: dict[str, tuple[Scalar, ...]] = {}
    for parent, values in value.items():
        wanted = values if isinstance(values, list | tuple) else [values]
        if not wanted:
            raise problem("must name at least one value", parent)
        conditions[str(parent)] = tuple(check_scalar(item, parent) for item in wanted)
    return conditions


When = Annotated[
    dict[str, tuple[Scalar, ...]] | None,
    BeforeValidator(_conditions),
    WithJsonSchema(
        {
            "type": ["object", "null"],
            "minProperties": 1,
            "additionalProperties": {
                "anyOf": [SCALAR_SCHEMA, {"type": "array", "minItems": 1, "items": SCALAR_SCHEMA}]
            },
        }
    ),
    Field(
        description="The parameter exists only where every named parameter has one of the listed values"
        " (categorical or int parameters only); absent: always."
    ),
]


def _points_of(number: Callable[[Any], Any]) -> BeforeValidator:
    def read(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return whole(value)
        items = []
        for index, item in enumerate(value):
            with within(index):
                items.append(number(item))
        return tuple(items)

    return BeforeValidator(read)


FloatPoints = Annotated[int | tuple[float, ...] | None, _points_of(number)]
IntPoints = Annotated[int | tuple[int, ...] | None, _points_of(whole)]


class FloatParameter(Section):
    """A real number between `low` and `high`."""

    type: Literal["float"] = Field(description="Kind of parameter.")
    low: Number = Field(description="Smallest value, in the parameter's own unit.")
    high: Number = Field(description="Largest value; above `low`.")
    log: Flag = Field(False, description="Draw on a logarithmic scale; `low` must be above 0.")
    step: Number | None = Field(
        None, description="Distance between allowed values, counted from `low`; not with `log`."
    )
    points: FloatPoints = Field(
        None,
        description="Values of a grid: how many between `low` and `high` (evenly spaced, geometric with"
        " `log`), or a list of them. Only the grid sampler reads it.",
    )
    when: When = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_range(self.low, self.high, self.log, 0, exclusive=True)
        if self.step is not None:
            _check_step(self.step, self.low, self.high, self.log)
        _check_points(self.points, self.low, self.high)
        return self


class IntParameter(Section):
    """A whole number between `low` and `high`, both included."""

    type: Literal["int"] = Field(description="Kind of parameter.")
    low: Whole = Field(description="Smallest value.")
    high: Whole = Field(description="Largest value; above `low`.")
    log: Flag = Field(False, description="Draw on a logarithmic scale; `low` must be at least 1.")
    step: Whole = Field(1, description="Distance between allowed values, counted from `low`; 1 with `log`.")
    points: IntPoints = Field(
        None,
        description="Values of a grid: at most how many between `low` and `high` (evenly spaced, geometric"
        " with `log`, rounded to allowed values), or a list of them; absent: every allowed value. Only the"
        " grid sampler reads it.",
    )
    when: When = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_range(self.low, self.high, self.log, 1, exclusive=False)
        if self.step != 1:
            _check_step(self.step, self.low, self.high, self.log)
        _check_points(self.points, self.low, self.high)
        if isinstance(self.points, tuple):
            for index, value in enumerate(self.points):
                if (value - self.low) % self.step:
                    allowed = f"{self.low} plus a multiple of the step {self.step}"
                    raise problem(f"must be {allowed}, got {value}", "points", index)
        return self


class Choice(Section):
    """One choice: the label that charts show, and the value that the objective receives."""

    label: Scalar = Field(description="What the sampler, tables and charts see.")
    value: Any = Field(description="What the objective's `config` holds; any JSON value.")


def _choices(value: Any) -> Any:
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        pairs = [_pair(item, index) for index, item in enumerate(value)]
    else:
        raise problem(f"must be a list, or a mapping from labels to values, got {shown(value)}")
    if not pairs:
        raise problem("must hold at least one choice")
    seen: dict[Scalar, Scalar] = {}  # equal labels of different types share a place
    for index, (label, _) in enumerate(pairs):
        check_scalar(label, index)
        if isinstance(label, str) and len(label) > MAX_LABEL:
            raise problem(
                f"is a text of {len(label)} characters; at most {MAX_LABEL} are allowed: give it a short"
                " label, {label: short, value: ...}",
                index,
            )
        if label in seen:
            other = seen[label]
            same = "" if type(other) is type(label) else f" ({shown(other)} and {shown(label)} are equal)"
            raise problem(f"repeats the choice {shown(label)}{same}", index)
        seen[label] = label
    return tuple(
        {"label": label, "value": check_json(item, index)} for index, (label, item) in enumerate(pairs)
    )


def _pair(item: Any, index: int) -> tuple[Any, Any]:
    if isinstance(item, Choice):
        return item.label, item.value
    if isinstance(item, Mapping) and set(item) == {"label", "value"}:
        return item["label"], item["value"]
    if isinstance(item, Mapping | list | tuple):
        raise problem(
            "needs a label, because it is not a single value: write the choices as a mapping,"
            f" {{a_label: {shown(item)}}}",
            index,
        )
    return item, item


_LABELLED = {
    "type": "object",
    "properties": {"label": SCALAR_SCHEMA, "value": {}},
    "required": ["label", "value"],
    "additionalProperties": False,
}
_LISTED = {"type": "array", "minItems": 1, "items": {"anyOf": [SCALAR_SCHEMA, _LABELLED]}}
_CHOICES_SCHEMA: dict[str, Any] = {"anyOf": [_LISTED, {"type": "object", "minProperties": 1}]}
Choices = Annotated[tuple[Choice, ...], BeforeValidator(_choices), WithJsonSchema(_CHOICES_SCHEMA)]


class CategoricalParameter(Section):
    """One of a list of choices, without an order."""

    type: Literal["categorical"] = Field(description="Kind of parameter.")
    choices: Choices = Field(
        description="Text, numbers, true, false or null; or a mapping from labels to any JSON values; or a"
        " list of {label, value}."
    )
    when: When = None

    @property
    def labels(self) -> tuple[Scalar, ...]:
        """What the sampler chooses from, in the file's order."""
        return tuple(choice.label for choice in self.choices)

    @field_serializer("choices", mode="wrap")
    def _plain_where_possible(
        self, choices: tuple[Choice, ...], serialize: SerializerFunctionWrapHandler
    ) -> Any:
        if all(type(c.label) is type(c.value) and c.label == c.value for c in choices):
            return [choice.label for choice in choices]
        return [{"label": choice.label, "value": choice.value} for choice in choices]


Parameter = Annotated[FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")]
AnyParameter = FloatParameter | IntParameter | CategoricalParameter


def last_value(parameter: FloatParameter | IntParameter) -> float:
    """The largest value that `low` plus a number of steps reaches; `high` where there is no step."""
    return parameter.high if parameter.step is None else step_value(parameter, step_count(parameter) - 1)


def step_count(parameter: FloatParameter | IntParameter) -> int:
    """How many values `low`, `low + step`, ... there are up to `high`; the parameter has a step."""
    low, step = Decimal(str(parameter.low)), Decimal(str(parameter.step))
    return int((Decimal(str(parameter.high)) - low) // step) + 1


def step_value(parameter: FloatParameter | IntParameter, index: int) -> float:
    """The value `index` steps above `low`, rounded as a person would write it."""
    low, step = Decimal(str(parameter.low)), Decimal(str(parameter.step))
    return type(parameter.low)(low + index * step)


def _check_range(low: float, high: float, log: bool, least: int, *, exclusive: bool) -> None:
    if log and (low <= least if exclusive else low < least):
        bound = f"above {least}" if exclusive else f"at least {least}"
        raise problem(f"must be {bound} on a log scale, got {_neat(low)}", "low")
    if low >= high:
        hint = "; a constant belongs under `fixed`" if low == high else ""
        raise problem(f"must be below high ({_neat(high)}), got {_neat(low)}{hint}", "low")


def _check_step(step: float, low: float, high: float, log: bool) -> None:
    if log:
        raise problem("cannot be combined with a log scale; drop one of the two", "step")
    if step <= 0:
        raise problem(f"must be above 0, got {_neat(step)}", "step")
    if step > high - low:
        span = f"the range from {_neat(low)} to {_neat(high)}"
        raise problem(f"must not be larger than {span}, got {_neat(step)}", "step")


def _check_points(points: int | tuple[float, ...] | None, low: float, high: float) -> None:
    if isinstance(points, int) and points < 2:
        raise problem(f"must be at least 2, got {points}", "points")
    if not isinstance(points, tuple):
        return
    if not points:
        raise problem("must hold at least one value", "points")
    for index, value in enumerate(points):
        if not low <= value <= high:
            ends = f"low ({_neat(low)}) and high ({_neat(high)})"
            raise problem(f"must lie between {ends}, got {_neat(value)}", "points", index)
        if value in points[:index]:
            raise problem(f"repeats the value {_neat(value)}", "points", index)


def _neat(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)
