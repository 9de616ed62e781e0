"""What the system says of this process, asked without importing anything: its memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def process_memory(when: Literal["now", "peak"]) -> int | None:
    """The memory that this process holds, or the most that it has held, in bytes; ``None`` where the system is silent.

    Without its children. Linux says both; of another system, only the peak is known.
    """
    name = {"now": "VmRSS:", "peak": "VmHWM:"}[when]  # getrusage's peak takes over that of the process before this one
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROCESS / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    if when == "now":
        return None
    with suppress(ImportError, OSError):
        import resource  # there is none on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def forget_peak() -> bool:
    """Ask the system to count the peak of this process's memory anew; whether it does, as Linux can."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def free_memory() -> int | None:
    """The memory that this process may still take, in bytes; ``None`` where the system is silent.

    That is what the machine could give without swapping, or less where a container is given less.
    """
    machine = _field(_MACHINE, "MemAvailable:")
    found = [] if machine is None else [machine * 1024]
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such group, or "max": without a limit
            taken = int((_GROUP / used).read_text(encoding="utf-8"))
            files = _field((_GROUP / used).with_name("memory.stat"), cached) or 0
            found.append(max(0, int((_GROUP / limit).read_text(encoding="utf-8")) - taken + files))
    return min(found, default=None)


def _field(file: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return None
