"""Functions shared by all benchmarks: pinning to one core, CPU time, interleaved rounds, medians and claims."""

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
    """Claim of a benchmark, with its measured value and goal."""

    name: str
    measured: str
    goal: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.measured} (goal {self.goal}): {'holds' if self.holds else 'falls short'}"


def parse_options(description: str) -> argparse.Namespace:
    """Parse the command line, which has the option ``--quick``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="run a short, less precise version (under 60 s)")
    return parser.parse_args()


def pin() -> None:
    """Pin this process and its children to one core, if the platform supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def child_cpu_seconds(command: Sequence[str]) -> float:
    """Return the user and system seconds of a command, including startup.

    Raises:
        CalledProcessError: If the command fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def measure_interleaved(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the measurements of each side from ``rounds`` interleaved rounds, after one warm-up round."""
    for measure in sides.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def print_table(found: dict[str, list[float]], unit: str, base: str) -> None:
    """Print median, minimum and maximum of each side, and the median of its ratios to ``base`` per round."""
    width = max(map(len, found))
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, found[base], strict=True))
        print(
            f"{name:<{width}}  median {statistics.median(values):.4f} {unit}"
            f"  ({min(values):.4f} to {max(values):.4f})  {ratio:.2f}x {base}"
        )


def finish(claims: Sequence[Claim]) -> None:
    """Print the claims and exit with status 1 if one does not hold."""
    for claim in claims:
        print(claim)
    sys.exit(0 if all(claim.holds for claim in claims) else 1)
