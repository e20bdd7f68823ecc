"""Which of a study's trials, in which order: `lr<0.01 optimizer=adam best=10%`."""

from __future__ import annotations

import difflib
import math
import operator
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hpo.errors import UserError
from storage.history.records import StudyHistory, TrialRecord, front_of, ranked

_OWN = "number state value last_report steps attempts seconds worker runner device error feasible star note"
FIELDS: dict[str, Callable[[TrialRecord], Any]] = {
    **{name: operator.attrgetter(name) for name in _OWN.split()},
    "epochs": operator.attrgetter("steps"),
    "score": lambda trial: trial.last_report if trial.state == "pruned" else trial.value,
    "tag": lambda trial: " ".join(trial.tags) or None,
}
"""What every trial has; `star` alone is a condition, of the tags `tag=a` asks for one. `score` is what charts
count it with, `value:2` its value in the second direction. Other names are parameters, then metrics: their
last values, or `min:` or `max:`."""
MAX_CONDITIONS = 60

_CONDITION = re.compile(r"(?P<name>[^<>=!~]+)(?P<sign><=|>=|!=|=|<|>|~)(?P<text>.*)", re.DOTALL)
_ORDERED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_RANKED = ("best", "front")  # what is told of a trial beside all others
_OF_METRIC = ("min:", "max:", "metric:")


@dataclass(frozen=True)
class Condition:
    """`name sign text`: `lr<0.01`, `optimizer=adam,sgd`, `error~memory`, `best=10%`, `front=true`."""

    name: str
    sign: str
    text: str

    def holds(self, value: Any) -> bool:
        """Whether a trial's value meets it. What a trial does not have meets `!=` alone."""
        if value is None:
            return self.sign == "!="
        if (meets := _ORDERED.get(self.sign)) is not None:
            number = value if type(value) in (int, float) else _number(value)
            return number is not None and meets(number, self._number)
        if self.name == "tag" and self.sign in ("=", "!="):
            return any(tag in self._texts for tag in value.split()) == (self.sign == "=")
        if self.sign == "~":
            return self.text.casefold() in str(value).casefold()
        return any(_alike(value, text) for text in self._texts) == (self.sign == "=")

    @cached_property
    def _number(self) -> float:
        return float(self.text)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.text, *self.text.split(","))))


def parse_conditions(texts: Iterable[str]) -> list[Condition]:
    """Conditions separated by spaces; quotes hold together what has spaces in it.

    Raises:
        UserError: what cannot be read, with an example.
    """
    found = []
    for text in texts:
        try:
            words = shlex.split(text)
        except ValueError:
            raise UserError(f"a quote is not closed in {text[:80]!r}") from None
        for word in words:
            match = _CONDITION.fullmatch("star=true" if word == "star" else word)
            if match is None:
                raise UserError(
                    f"{word[:80]!r} is no condition: write a name, one of = != < <= > >= ~ and a value "
                    "without spaces between them, as in lr<0.01 or optimizer=adam"
                )
            condition = Condition(**match.groupdict())
            if condition.sign in _ORDERED and _number(condition.text) is None:
                raise UserError(f"{word[:80]!r} compares with {condition.text[:40]!r}, which is no number")
            found.append(condition)
    if len(found) > MAX_CONDITIONS:
        raise UserError(f"{len(found)} conditions are too many; write at most {MAX_CONDITIONS}")
    return found


def metrics_in(
    trials: Iterable[TrialRecord], where: Iterable[str] = (), names: Iterable[str] = ()
) -> set[str]:
    """The metrics that conditions and names (of columns, or to sort by) ask for.

    Raises:
        UserError: a condition that cannot be read.
    """
    known = {*FIELDS, *_RANKED}
    asked = {*names, *(condition.name for condition in parse_conditions(where))}
    for trial in trials:  # the first has most of them
        if asked <= known:
            break
        known.update(trial.params)
    plain = {name.partition(":")[2] if name.startswith(_OF_METRIC) else name for name in asked - known}
    return {name for name in plain if not name.startswith(("param:", "value:"))}


def with_metrics(history: StudyHistory, found: Mapping[int, Mapping[str, Any]]) -> StudyHistory:
    """The history, each trial with these metrics: number -> name -> step -> value."""
    return replace(history, trials=tuple(replace(t, metrics=found.get(t.number, {})) for t in history.trials))


def select(
    history: StudyHistory,
    where: Iterable[str] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
    known: Collection[TrialRecord] = (),
) -> list[TrialRecord]:
    """The trials that meet every condition, sorted by a name ("-" before it descends), at most `limit`.

    A name may also be one that only the `known` trials have.

    Raises:
        UserError: a name that no trial has, with the nearest that one has; a condition that cannot be read.
    """
    conditions = parse_conditions(where)
    key = (sort or "number").removeprefix("-")
    names = [*(c.name for c in conditions if c.name not in _RANKED), key]
    check_names(names, (*history.trials, *known))
    found = list(history.trials)
    for condition in conditions:
        if condition.name in _RANKED:
            among = _ranked(condition, history)
            found = [trial for trial in found if trial.number in among]
        else:
            read = reader(condition.name)
            found = [trial for trial in found if condition.holds(read(trial))]
    if key == "number":
        return sorted(found, key=FIELDS[key], reverse=bool(sort and sort.startswith("-")))[:limit]
    read = reader(key)
    keyed = [(read(trial), trial) for trial in found]
    there = [(value, trial) for value, trial in keyed if value is not None]
    there.sort(key=lambda pair: _order(pair[0]), reverse=bool(sort and sort.startswith("-")))
    return [trial for _, trial in (*there, *(pair for pair in keyed if pair[0] is None))][:limit]


def reader(name: str) -> Callable[[TrialRecord], Any]:
    """`look_up` of one name."""

    def read(trial: TrialRecord) -> Any:
        value = trial.params.get(name)  # what most are asked for
        return look_up(trial, name) if value is None else value

    return FIELDS.get(name) or read


def place_of(name: str) -> int | None:
    """Of `value:2`, which of a trial's values it is, from 0; None of other names."""
    return int(name[-1]) - 1 if re.fullmatch("value:[1-9]", name) else None


def look_up(trial: TrialRecord, name: str) -> Any:
    """What a trial has under a name; None where it has nothing."""
    if name in trial.params and name not in FIELDS:
        value = trial.params[name]
        return "null" if value is None else value
    if name in FIELDS:
        return FIELDS[name](trial)
    kind, _, rest = name.partition(":")
    if kind == "param":
        return trial.params.get(rest)
    if (place := place_of(name)) is not None:
        return trial.values[place] if trial.values and place < len(trial.values) else None
    steps = trial.metrics.get(rest if name.startswith(_OF_METRIC) else name)
    if not steps:
        return None
    return {"min": min, "max": max}[kind](steps.values()) if kind in ("min", "max") else steps[max(steps)]


def check_names(names: Iterable[str], trials: Collection[TrialRecord]) -> None:
    """Raise UserError for a name that no trial knows; a study without trials knows every name."""
    wanted = [name for name in names if name not in FIELDS and place_of(name) is None]
    known = set(FIELDS)
    for trial in trials:
        if known.issuperset(wanted):
            return
        known.update(trial.params, trial.metrics)
    for name in wanted if trials else ():
        if name in known or name.partition(":")[2] in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f". There are {', '.join(sorted(known))}"
        raise UserError(f"no trial of this study has {name[:80]!r}{hint}")


def _ranked(condition: Condition, history: StudyHistory) -> set[int]:
    """Numbers of the trials that are among the best, or on the front."""
    if condition.name == "front":
        front = {trial.number for trial in front_of(history.trials, history.directions)}
        yes = _alike(True, condition.text) == (condition.sign == "=")
        return front if yes else {trial.number for trial in history.trials} - front
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(%?)", condition.text)
    if match is None or condition.sign != "=":
        raise UserError(f"write best=5 or best=10%, not best{condition.sign}{condition.text[:40]}")
    if len(history.directions) > 1:
        raise UserError("a study of several directions has no best trials but a front: write front=true")
    done = ranked(history.trials, history.directions[0])
    asked = float(match[1])
    return {trial.number for trial in done[: math.ceil(asked / 100 * len(done) if match[2] else asked)]}


def _alike(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return text.casefold() in (("true", "yes", "1") if value else ("false", "no", "0"))
    number, other = _number(value), _number(text)
    if number is not None and other is not None:
        return number == other
    return str(value) == text or (value == "null" and text == "None")


def _number(value: Any) -> float | None:
    """Of a number, or of text that says one."""
    try:
        found = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if found is None or math.isnan(found) else found


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers before text."""
    number = _number(value) if not isinstance(value, str) else None
    return (0, number, "") if number is not None else (1, 0.0, str(value))
