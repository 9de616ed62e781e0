"""Environment of a run: versions, git commit, command and hardware."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from imgrec import trust
from imgrec.runs.system import energy_meters

_PACKAGES = (
    "imgrec",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "timm",
    "wandb",
    "jsonargparse",
    "safetensors",
    "scikit-learn",
    "pyarrow",
    "pillow",
    "numpy",
)


def describe_environment(
    *,
    command: Sequence[str] | None = None,
    seed: int | None = None,
    fingerprint: str | None = None,
    experiment: str | None = None,
    started: datetime | None = None,
) -> dict[str, Any]:
    """Return the content of environment.json. It does not contain the host name.

    Args:
        command: Command line. Defaults to that of this process.
        seed: Value of ``seed_everything``.
        fingerprint: Fingerprint of the data.
        experiment: Name of the experiment. Defaults to the name of the parent folder.
        started: Start time of the run, written in UTC. Defaults to now.
    """
    moment = (started or datetime.now(UTC)).astimezone(UTC)
    return {
        "experiment": experiment,
        "started": moment.isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        "seed": seed,
        "data_fingerprint": fingerprint,
        "git": git_state(Path.cwd()),
        "versions": package_versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": describe_hardware(),
    }


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of all packages that affect results. ``None`` if one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a folder and if tracked files differ from it, or ``None`` outside a repository.

    ``dirty`` is ``None`` while received data is open, because `git status` can run commands of the repository.
    """
    commit = _output("git", "-C", str(folder), "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    if trust.current() is not None:
        return {"commit": commit, "dirty": None}
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def describe_hardware() -> dict[str, Any]:
    """Return the processor, the usable cores, the memory in GiB, the GPUs and the energy meters."""
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cuda": torch.version.cuda if gpus else None,
        "energy": _energy([str(gpu.uuid) for gpu in gpus]),
    }


def _energy(gpus: list[str]) -> str:
    meters, reason = energy_meters(gpus)
    return ", ".join(meter.name for meter in meters) or f"not measured ({reason})"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        name = _output("sysctl", "-n", "machdep.cpu.brand_string")
        return name or platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):  # not supported by this system
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not installed, or a slow disk
        return None
    return done.stdout.strip() if done.returncode == 0 else None
