"""Hyperparameter search for PyTorch: one study file, any number of workers, every trial exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api import Study, create, load, optimize

__all__ = ["Study", "create", "load", "optimize"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is used: `hpo --help` needs neither SQLAlchemy nor Optuna."""
    if name in __all__:
        from hpo import api

        return getattr(api, name)
    raise AttributeError(f"module 'hpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is to call, whether it has been imported or not."""
    return __all__
