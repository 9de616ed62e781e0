"""environment.json: what a run stood on, so that one may know later why it gave what it gave."""

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
from imgrec.runs.meters import energy_meters

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
    """What a run stands on, as plain data for environment.json. The machine's name is not in it.

    Args:
        command: the command line; by default this process's own.
        seed: what ``seed_everything`` was given.
        fingerprint: the data's own fingerprint.
        experiment: the name of the experiment, where it should not be read off the folder.
        started: when the run began; by default now. Written in UTC.
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
        "hardware": hardware(),
    }


def package_versions() -> dict[str, str | None]:
    """The installed version of Python and of each package that a result may depend on; ``None`` where absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of ``folder`` and whether tracked files differ from it; ``None`` outside a repository.

    While received data is open, ``dirty`` is ``None``: `git status` can run commands that the repository configures.
    """
    commit = _output("git", "-C", str(folder), "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    if trust.current() is not None:
        return {"commit": commit, "dirty": None}
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def hardware() -> dict[str, Any]:
    """The processor, the cores that this process may use, the memory in GiB, the GPUs, and where energy is read."""
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
    meters, why = energy_meters(gpus)
    return ", ".join(meter.name for meter in meters) or f"not measured ({why})"


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
    except (ValueError, OSError, AttributeError):  # no such names on this system
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not installed, or a repository on a disk that sleeps
        return None
    return done.stdout.strip() if done.returncode == 0 else None
