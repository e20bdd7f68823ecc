"""Start workers elsewhere: a launcher only starts and stops `hpo worker`; they meet in the database."""

from hpo.launch.base import LaunchedWorker, Launcher, Order, WorkerLife, find

__all__ = ["LaunchedWorker", "Launcher", "Order", "WorkerLife", "find"]
