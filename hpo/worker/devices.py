"""Which runner works on which device. Nothing here imports torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from hpo.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One CUDA device of this machine."""

    index: int
    uuid: str
    name: str
    memory: int  # MiB


@dataclass(frozen=True)
class Share:
    """The device share of one runner."""

    device: str  # as the runner sees it: "cpu" or "cuda:0"
    shown: str  # as people see it: "cpu", "cuda:1"
    visible: str | None  # CUDA_VISIBLE_DEVICES of the runner; None: left as it is


def find_gpus() -> list[Gpu]:
    """CUDA devices of this machine by `nvidia-smi`, within CUDA_VISIBLE_DEVICES; [] where there are none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [parse_gpu(line) for line in answer.splitlines() if line.count(",") >= 3]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    wanted = [part.strip() for part in allowed.split(",") if part.strip()]
    return [gpu for gpu in gpus if any(part == str(gpu.index) or _is_uuid(part, gpu) for part in wanted)]


def _is_uuid(part: str, gpu: Gpu) -> bool:
    """CUDA takes a UUID's beginning too."""
    return part.startswith("GPU-") and gpu.uuid.startswith(part)


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None when nvidia-smi cannot say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.split()), None)


def parse_gpu(line: str) -> Gpu:
    """One line of nvidia-smi's CSV."""
    index, uuid, name, memory = (part.strip() for part in line.split(",", 3))
    return Gpu(int(index), uuid, name, int(float(memory)) if memory[:1].isdigit() else 0)


def plan(gpus: str, per_gpu: int, runners: int | None) -> list[Share]:
    """The share of each runner.

    Args:
        gpus: "all", "none", or indices and UUIDs separated by commas.
        per_gpu: runners on each card.
        runners: how many runners; None: `per_gpu` for each card, else one for each core.

    Raises:
        UserError: a GPU that is not there, or a number below 1.
    """
    if per_gpu < 1:
        raise UserError(f"--per-gpu must be at least 1, got {per_gpu}")
    if runners is not None and runners < 1:
        raise UserError(f"--runners must be at least 1, got {runners}")
    cards = _chosen(gpus)
    if not cards:
        hidden = "" if gpus == "none" else None
        return [Share("cpu", "cpu", hidden)] * (runners or usable_cores())
    count = runners or len(cards) * per_gpu
    return [
        Share("cuda:0", f"cuda:{card.index}", card.uuid)
        for card in (cards[i % len(cards)] for i in range(count))
    ]


def usable_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _chosen(gpus: str) -> list[Gpu]:
    if gpus == "none":
        return []
    there = find_gpus()
    if gpus == "all":
        return there
    chosen = []
    for part in (text.strip() for text in gpus.split(",")):
        card = next((gpu for gpu in there if part in (str(gpu.index), gpu.uuid)), None)
        if card is None:
            names = ", ".join(str(gpu.index) for gpu in there) or "none"
            raise UserError(f"--gpus {gpus}: there is no GPU {part!r} on this machine (found: {names})")
        chosen.append(card)
    return chosen
