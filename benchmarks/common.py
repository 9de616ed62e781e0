"""What every benchmark shares: one pinned core, CPU seconds, interleaved rounds, medians, a closing line a claim."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One claim and what was measured of it."""

    name: str
    measured: str
    goal: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.measured} (goal {self.goal}): {'holds' if self.holds else 'falls short'}"


def arguments(description: str) -> argparse.Namespace:
    """``--quick``: under a minute, and rougher."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under 60 s, rougher")
    return parser.parse_args()


def pin() -> None:
    """Keep this process and its children on one core, where the platform can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def child_cpu_seconds(command: Sequence[str]) -> float:
    """User and system seconds of one process from start to end; a failing one raises ``CalledProcessError``."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def interleaved(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side measures, ``rounds`` times in turn, after one round that does not count."""
    for measure in sides.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def table(found: dict[str, list[float]], unit: str, base: str) -> None:
    """Median, least and most of each side, and the median of the ratios to ``base``, round by round."""
    width = max(map(len, found))
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, found[base], strict=True))
        print(
            f"{name:<{width}}  median {statistics.median(values):.4f} {unit}"
            f"  ({min(values):.4f} to {max(values):.4f})  {ratio:.2f}x {base}"
        )


def finish(claims: Sequence[Claim]) -> None:
    """Print the claims, and exit with 1 if any falls short."""
    for claim in claims:
        print(claim)
    sys.exit(0 if all(claim.holds for claim in claims) else 1)
