"""Settings of the service, from the environment. Study files describe studies; these describe machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import UserError

DEFAULT_STORAGE = "sqlite:///hpo.db"


@dataclass(frozen=True)
class Settings:
    """Typed service settings; construction refuses nonsense.

    Attributes:
        storage: SQLAlchemy URL of the shared database (HPO_STORAGE).
        artifacts: URL or directory where checkpoints, logs and files are kept (HPO_ARTIFACTS);
            empty: `hpo-artifacts` beside the SQLite file, or in the working directory.
        lease: seconds for which a silent worker's trial is still its own (HPO_LEASE); renewed at a third.
        grace: seconds between SIGTERM and the end of a worker's runners (HPO_GRACE).
        news: seconds for which a worker whose study has ended tries to tell of it (HPO_NEWS).
    """

    storage: str = DEFAULT_STORAGE
    artifacts: str = ""
    lease: float = 15.0
    grace: float = 20.0
    news: float = 120.0

    def __post_init__(self) -> None:
        if not 0.3 <= self.lease <= 3600:
            raise UserError(f"HPO_LEASE must be between 0.3 and 3600 seconds, got {self.lease:g}")
        if not 0 <= self.grace <= 3600:
            raise UserError(f"HPO_GRACE must be between 0 and 3600 seconds, got {self.grace:g}")
        if not 0 <= self.news <= 86_400:
            raise UserError(f"HPO_NEWS must be between 0 and 86400 seconds, got {self.news:g}")

    @property
    def heartbeat(self) -> float:
        """Seconds between two renewals of the leases."""
        return self.lease / 3

    @classmethod
    def from_environment(cls, storage: str | None = None, artifacts: str | None = None) -> Settings:
        """The settings of this process; arguments win over the environment.

        Raises:
            UserError: a variable is not a number or out of range.
        """
        return cls(
            storage=storage or os.environ.get("HPO_STORAGE") or DEFAULT_STORAGE,
            artifacts=artifacts or os.environ.get("HPO_ARTIFACTS", ""),
            lease=_seconds("HPO_LEASE", cls.lease),
            grace=_seconds("HPO_GRACE", cls.grace),
            news=_seconds("HPO_NEWS", cls.news),
        )

    def artifact_url(self) -> str:
        """Where artifacts of a new study go."""
        if self.artifacts:
            return self.artifacts if "://" in self.artifacts else Path(self.artifacts).absolute().as_uri()
        prefix = "sqlite:///"
        if self.storage.startswith(prefix):
            file = Path(self.storage.removeprefix(prefix).split("?")[0]).absolute()
            return (file.parent / "hpo-artifacts").as_uri()
        return (Path.cwd() / "hpo-artifacts").as_uri()


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} must be a number of seconds, got {text!r}") from None
