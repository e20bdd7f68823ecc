"""Errors a person reads, and the exit code each one ends a command with."""

from __future__ import annotations

from typing import ClassVar


class ExitCode:
    """The documented exit codes of every command."""

    DONE = 0
    FAILED = 1  # the study has no completed trial, or the command failed
    BAD_INPUT = 2
    NOT_FOUND = 3  # no such study, trial, worker or launch
    NO_DATABASE = 4
    CODE_DIFFERS = 64  # this worker's code is not the study's
    TIMEOUT = 124  # what `hpo wait` waits for has not happened in the time it was given
    INTERRUPTED = 130


class HpoError(Exception):
    """Base of every error that is shown as a sentence instead of a traceback."""

    exit_code: ClassVar[int] = ExitCode.FAILED


class UserError(HpoError):
    """What the user gave cannot be used: says what, where, and what to do."""

    exit_code = ExitCode.BAD_INPUT


class SpecError(UserError):
    """A study file is wrong. The message names file, line where known, field and what is allowed."""


class ObjectiveError(UserError):
    """An objective cannot be imported or is not callable."""


class AdviceError(HpoError):
    """A study's own sampler or pruner failed: a sentence, and its traceback where there is one."""


class NotFoundError(HpoError):
    """No study, trial, worker or launch of that name."""

    exit_code = ExitCode.NOT_FOUND


class DatabaseError(HpoError):
    """The database cannot be reached or used."""

    exit_code = ExitCode.NO_DATABASE


class CodeDiffersError(HpoError):
    """This machine's objective or packages are not those the study was started with."""

    exit_code = ExitCode.CODE_DIFFERS


def first_line(error: BaseException) -> str:
    """Of an error's message; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """`text` on one line, safe to print: control characters and the like become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
