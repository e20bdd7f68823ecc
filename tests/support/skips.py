"""Skips that a complete machine must not have.

With HPO_NO_SKIPS=1 (as `.ci/run` sets it) a test that is skipped fails, unless it is marked `gpu` and this
machine has none, or lacks SLURM, pgbouncer, root's rights or a kernel that gives network namespaces:
everything else a test may lack can be installed by the one who runs the tests.
"""

from __future__ import annotations

import os
from typing import Any

NO_GPU = "no CUDA device on this machine"
NO_SLURM = "slurm-wlm is not installed"
NO_POOLER = "pgbouncer is not installed"
NO_ROOT = "needs root"
NO_NAMESPACES = "no network namespaces in this container"
VARIABLE = "HPO_NO_SKIPS"


def skips_fail() -> bool:
    """Whether a skipped test counts as failed in this run."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")


def refuse_skip(report: Any, *, is_gpu_test: bool = False) -> None:
    """Turn a pytest report of a skip into one of a failure that says why."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    allowed = (NO_SLURM, NO_POOLER, NO_ROOT, NO_NAMESPACES, *((NO_GPU,) if is_gpu_test else ()))
    if any(each in reason for each in allowed):
        return
    report.outcome = "failed"
    report.longrepr = f"{VARIABLE} is set, and {report.nodeid} was skipped: {reason}"
