"""Who is told of a study's events: webhooks, by the name of a variable that holds the URL, and commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from hpo.spec.fields import Number, Section, above, at_most
from hpo.spec.problems import problem, shown

Kind = Literal["end", "best", "failing", "lost", "nearly"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VARIABLES = "HPO_NOTIFY_"  # what the names begin with, so that a study can point at no other variable
MAX_CHANNELS = 10
_NAME = re.compile(rf"{VARIABLES}[A-Z0-9_]{{1,80}}")


def _variable(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        got = "an address" if "://" in str(value) else shown(value)  # which is a secret
        raise problem(
            f"must be the name of an environment variable that holds the URL, like {VARIABLES}URL, got {got}:"
            " whoever has the URL can write there, so it stands in no study file"
        )
    return value


def _words(value: Any) -> Any:
    if value is not None and not (
        isinstance(value, list | tuple)
        and 0 < len(value) <= 100
        and all(isinstance(word, str) and word and "\0" not in word for word in value)
    ):
        raise problem(f"must be a list of words, like [./tell.sh], got {shown(value)}")
    return value


def _kinds(value: Any) -> Any:
    wrong = [kind for kind in value if kind not in KINDS] if isinstance(value, list | tuple) else [value]
    if wrong or not value:
        raise problem(f"must be a list of {', '.join(KINDS)}, got {shown(value)}")
    return value


class Channel(Section):
    """One receiver: a webhook, or a command that a worker runs where it may."""

    webhook: Annotated[str | None, BeforeValidator(_variable)] = Field(
        None, description=f"Name of the variable that holds the URL; it begins with {VARIABLES}."
    )
    form: Literal["json", "slack", "discord", "ntfy"] = Field(
        "json", description="What is posted: plain JSON, or what one of these services reads."
    )
    command: Annotated[tuple[str, ...] | None, BeforeValidator(_words)] = Field(
        None,
        description="A program in the webhook's place, by its arguments; it reads the JSON from its input.",
    )
    on: Annotated[tuple[Kind, ...], BeforeValidator(_kinds)] = Field(
        KINDS, description="The events that are told; all of them by default."
    )
    retry: Annotated[Number, above(0), at_most(86_400)] = Field(
        30.0, description="Seconds between two tries while the other side is away."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.webhook is None) == (self.command is None):
            raise problem("needs a webhook or a command, and not both", "webhook")
        if self.command is not None and self.form != "json":
            raise problem("is for webhooks; a command is given plain JSON", "form")
        return self


def channels(value: Any) -> Any:
    """The receivers as a list: of one, the list may be left out, and of a webhook its name is enough."""
    if value is None:
        return ()
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if len(listed) > MAX_CHANNELS:
        raise problem(f"has {len(listed)} receivers; at most {MAX_CHANNELS} are allowed")
    for at, one in enumerate(listed):
        if not isinstance(one, str | Mapping | Channel):
            raise problem(f"must be a mapping with webhook or command, got {shown(one)}", at)
    return tuple({"webhook": one} if isinstance(one, str) else one for one in listed)
