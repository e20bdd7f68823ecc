"""Settings of the service, from the environment. Study files describe studies; these describe machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import UserError

DEFAULT_STORAGE = "sqlite:///hpo.db"

# In the environment before NumPy is loaded: what charts calculate is so small that two threads wait for each
# other for longer than they work.
ALONE = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}


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
        for name, least, most in (("lease", 0.3, 3600), ("grace", 0, 3600), ("news", 0, 86_400)):
            if not least <= (value := getattr(self, name)) <= most:
                raise UserError(
                    f"HPO_{name.upper()} must be between {least} and {most} seconds, got {value:g}"
                )

    @property
    def heartbeat(self) -> float:
        """Seconds between two renewals of the leases."""
        return self.lease / 3

    @classmethod
    def from_environment(cls, storage: str | None = None) -> Settings:
        """The settings of this process; `storage` wins over the environment.

        Raises:
            UserError: a variable is not a number or out of range.
        """
        return cls(
            storage=storage or os.environ.get("HPO_STORAGE") or DEFAULT_STORAGE,
            artifacts=os.environ.get("HPO_ARTIFACTS", ""),
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
