"""Time and memory of the audit of CIFAR-10 on two cores: 50,000 training images as JPEG files.

The goal of two minutes is wall-clock time and depends on the machine. The throughput of the audit, in images per
core-second, is compared with reading and decoding alone, which is the upper bound.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from common import Claim, finish, parse_options

SECONDS = 120.0
MEBIBYTES = 300.0
COUNT = 50_000

CHILD = """
import os, resource, sys, time
from imgrec.audit import audit
from imgrec.data import Folder, Splits, SourceView
import numpy as np
source = Folder(sys.argv[1])
rows = np.flatnonzero(np.asarray([split != "test" for split in source.splits]))
rows = rows[np.random.default_rng(0).permutation(len(rows))[: int(sys.argv[2])]]
source.load(0)
splits = Splits(rows[10:], rows[:10], rows[:0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, cpu = time.perf_counter(), os.times()
found = audit(source, splits, workers=2)
seconds, after = time.perf_counter() - began, os.times()
used = sum(after[:4]) - sum(cpu[:4])
more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(seconds, used, more, sum(found.counts.values()))
"""


def run_audit(root: Path, count: int) -> tuple[float, float, float, int]:
    """Run an audit in a subprocess. Return its seconds, CPU seconds, additional MiB and number of findings."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(count)], capture_output=True, text=True, check=True
    )
    seconds, cpu, memory, findings = done.stdout.split()
    return float(seconds), float(cpu), float(memory), int(findings)


def measure_decoding(root: Path, count: int) -> float:
    """Return the images per core-second of reading and decoding alone."""
    from imgrec.data import Folder

    source = Folder(str(root))
    rows = range(0, len(source), max(1, len(source) // count))
    for row in list(rows)[:200]:
        source.load(row)
    began = time.process_time()
    for row in rows:
        source.load(row)
    return len(rows) / (time.process_time() - began)


def main() -> None:
    options = parse_options(__doc__ or "")
    root = Path(os.environ.get("IMGREC_DATA", "")) / "cifar10"
    if not os.environ.get("IMGREC_DATA") or not root.is_dir():
        print("IMGREC_DATA: expected a folder with cifar10/. Nothing is measured.")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    os.environ["OMP_NUM_THREADS"] = "1"
    count = 5_000 if options.quick else COUNT
    bound = measure_decoding(root, 2_000)
    runs = [run_audit(root, count) for _ in range(1 if options.quick else 3)]
    seconds, cpu, memory, findings = sorted(runs)[len(runs) // 2]
    print(f"reading and decoding alone  {bound:.0f} images per core-second")
    print(f"the audit                   {count / cpu:.0f} images per core-second, {count / cpu / bound:.0%} of that")
    print(
        f"{count:,} images, {findings:,} findings: {seconds:.1f} s on two cores, {cpu:.1f} CPU s, {memory:.0f} MiB more"
    )
    scaled = seconds * COUNT / count
    duration = f"{scaled:.0f} s" + (f" (scaled from {count:,})" if options.quick else "")
    finish(
        [
            Claim("audit of 50,000 images of 32 pixels on two cores", duration, "under 120 s", scaled < SECONDS),
            Claim("memory of that audit", f"{memory:.0f} MiB more", f"under {MEBIBYTES:.0f} MiB", memory < MEBIBYTES),
        ]
    )


if __name__ == "__main__":
    main()
