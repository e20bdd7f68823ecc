"""Where training runs, and what it costs there."""

from __future__ import annotations

import functools
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from objectives.config import TrainingConfig
from objectives.errors import DeviceError, OutOfMemoryError


def resolve(name: str) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", "mps").

    Raises:
        DeviceError: it is not on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"there is no kind of device called {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(f"{name} was asked for, but PyTorch finds no CUDA GPU on this machine; use cpu")
        if (device.index or 0) >= count:
            raise DeviceError(f"{name} was asked for, but this machine has {count} CUDA GPU(s), from cuda:0")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("mps was asked for, but this machine has none; use cpu")
    return device


def apply_switches(config: TrainingConfig, device: torch.device) -> None:
    """Set the process-wide switches that `config` decides: TF32 and deterministic kernels."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        torch.backends.cudnn.deterministic = config.deterministic
        torch.backends.cudnn.benchmark = not config.deterministic
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:
        torch.use_deterministic_algorithms(config.deterministic)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device since `reset_peak`, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak(device: torch.device) -> None:
    """Start counting peak memory anew, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def explained_memory_errors(device: str, batch_size: int | str) -> Iterator[None]:
    """Turn what PyTorch raises when memory runs out into an `OutOfMemoryError` that says what to change."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        text = str(error)
        on_host = "can't allocate memory" in text or "not enough memory" in text
        if not isinstance(error, torch.OutOfMemoryError) and not on_host:
            raise
        there = ""
        if device.startswith("cuda"):
            counts = (torch.cuda.memory_allocated(device), *torch.cuda.mem_get_info(device))
            held, free, total = (f"{count / 2**30:.1f} GiB" for count in counts)
            there = f" (this process holds {held}; {free} of {total} are free)"
        raise OutOfMemoryError(
            f"out of memory on {device} with batch_size {batch_size}{there}; use a smaller "
            "batch_size (with accumulate to keep the step's size), a smaller model, or amp. "
            f"PyTorch says: {text.strip()}"
        ) from error


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a result may depend on: versions, device, threads, and the git commit if there is one."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "device_name": name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


@functools.cache
def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
