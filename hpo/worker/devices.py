"""Which runner works on which device. Nothing here imports torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hpo.errors import UserError

MAX_RUNNERS = 1024  # of one worker: each is a process


@dataclass(frozen=True)
class Gpu:
    """One CUDA device of this machine: a card, or an instance of a card that is divided (MIG)."""

    index: int  # of the card
    uuid: str
    name: str
    memory: int  # MiB; 0: unknown
    instance: int | None = None  # within its card

    @property
    def shown(self) -> str:
        """As people see it: "cuda:1", or "cuda:1:0" for the first instance of a divided card."""
        return f"cuda:{self.index}" if self.instance is None else f"cuda:{self.index}:{self.instance}"

    def is_called(self, text: str) -> bool:
        """Whether `text` means it: the card's index, index:instance, or the UUID or its beginning."""
        if text.startswith(("GPU-", "MIG-")):
            return self.uuid.startswith(text)
        return text in (str(self.index), self.shown.removeprefix("cuda:"))


@dataclass(frozen=True)
class Share:
    """The device share of one runner."""

    device: str  # as the runner sees it: "cpu" or "cuda:0"
    shown: str  # as people see it: "cpu", "cuda:1"
    visible: str | None  # CUDA_VISIBLE_DEVICES of the runner; None: left as it is
    cards: int = 0  # that are visible to it

    def too_few(self, wanted: int) -> str | None:
        """Why a trial that takes so many GPUs cannot run here, in words; None where it can."""
        if self.device == "cpu" or self.cards >= wanted:
            return None
        return f"gpus_per_trial is {wanted}, and a runner has {self.cards} here; name the study to the worker"


def find_gpus() -> list[Gpu]:
    """CUDA devices of this machine by `nvidia-smi`, within CUDA_VISIBLE_DEVICES (which schedulers set)."""
    query = _nvidia_smi("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
    cards = [parse_gpu(line) for line in query.splitlines() if line.count(",") >= 3]
    gpus = with_instances(cards, _nvidia_smi("-L")) if cards else []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    wanted = [part.strip() for part in allowed.split(",") if part.strip()]
    return [gpu for gpu in gpus if any(gpu.is_called(part) for part in wanted)]


def with_instances(cards: Sequence[Gpu], listing: str) -> list[Gpu]:
    """The cards, each divided one replaced by its instances, which `nvidia-smi -L` lists below it."""
    instances: dict[int, list[Gpu]] = {}
    card: Gpu | None = None
    for line in listing.splitlines():
        if found := re.match(r"GPU (\d+):", line):
            card = next((one for one in cards if one.index == int(found[1])), None)
        elif card is not None and (part := re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)", line)):
            name = f"{card.name} MIG {part[1]}"
            instances.setdefault(card.index, []).append(Gpu(card.index, part[3], name, 0, int(part[2])))
    return [gpu for one in cards for gpu in instances.get(one.index, [one])]


def cores_of(runner: int, runners: int, threads: int, allowed: Collection[int]) -> tuple[int, ...] | None:
    """The cores of one of `runners` CPU runners: disjoint, near each other, as many for each as there are.

    None when they have not `threads` each: then the system shares them better than a fixed place would.
    """
    size, more = divmod(len(allowed), runners)
    if size < threads:
        return None
    first = runner * size + min(runner, more)
    return tuple(sorted(allowed)[first : first + size + (runner < more)])


def _nvidia_smi(*words: str) -> str:
    """What nvidia-smi answers; "" where there is none, or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run(  # noqa: S603 -- the driver's own command
            [program, *words], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None when nvidia-smi cannot say."""
    answer = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    return next(iter(answer.split()), None)


def parse_gpu(line: str) -> Gpu:
    """One line of nvidia-smi's CSV."""
    index, uuid, name, memory = (part.strip() for part in line.split(",", 3))
    return Gpu(int(index), uuid, name, int(float(memory)) if memory[:1].isdigit() else 0)


def plan(gpus: str, per_gpu: int, runners: int | None, each: int = 1) -> list[Share]:
    """The share of each runner; None: `per_gpu` of them for each card, else one for each core.

    `gpus` is "all", "none", or indices and UUIDs separated by commas; of a divided card an index means all
    instances, 0:1 one of them. A trial, and so a runner, has `each`; cards that are left over stay idle.

    Raises:
        UserError: a GPU that is not there, fewer than a trial takes, or a number below 1.
    """
    for option, value in (("--per-gpu", per_gpu), ("--runners", runners)):
        if value is not None and not 1 <= value <= MAX_RUNNERS:
            raise UserError(f"{option} must be between 1 and {MAX_RUNNERS:,}, got {value:,}")
    cards = _chosen(gpus)
    if not cards:
        hidden = "" if gpus == "none" else None
        return [Share("cpu", "cpu", hidden)] * (runners or max(1, usable_cores() // each))
    places = [cards[first : first + each] for first in range(0, len(cards) - each + 1, each)]
    if not places:
        raise UserError(
            f"gpus_per_trial is {each}, but --gpus {gpus} names {len(cards)} of this machine: "
            f"{', '.join(card.shown for card in cards)}. --gpus none trains on the CPU, by {each} processes"
        )
    shares = [
        Share("cuda:0", "+".join(card.shown for card in own), ",".join(card.uuid for card in own), len(own))
        for own in places
    ]
    return [shares[i % len(shares)] for i in range(runners or len(shares) * per_gpu)]


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    return len(allowed_cores()) or os.cpu_count() or 1


def allowed_cores() -> set[int]:
    """The CPU cores this process may use; empty where the system does not say (macOS)."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _chosen(gpus: str) -> list[Gpu]:
    if gpus == "none":
        return []
    there = find_gpus()
    if gpus == "all":
        return there
    chosen: dict[str, Gpu] = {}
    for part in (text.strip() for text in gpus.split(",")):
        called = {gpu.uuid: gpu for gpu in there if part and gpu.is_called(part)}
        if not called:
            names = ", ".join(gpu.shown.removeprefix("cuda:") for gpu in there) or "none"
            raise UserError(f"--gpus {gpus}: there is no GPU {part!r} on this machine (found: {names})")
        chosen |= called
    return list(chosen.values())
