"""Runs every benchmark and rewrites RESULTS.md; ``--quick`` runs the rough versions and leaves RESULTS.md alone."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from common import arguments

from imgrec.runs.environment import hardware, package_versions

HERE = Path(__file__).parent


def main() -> int:
    options = arguments(__doc__ or "")
    scripts = sorted(
        p for p in HERE.glob("*.py") if not p.name.endswith("common.py") and p.name not in ("run_all.py", "article.py")
    )
    sections, short = [], 0
    for script in scripts:
        command = [sys.executable, script.name, *(["--quick"] if options.quick else [])]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        print(f"## {script.name}\n{done.stdout}{done.stderr}", flush=True)
        short += done.returncode != 0
        sections.append(f"## {script.name}\n\n```\n{done.stdout.strip()}\n```\n")
    if not options.quick:
        (HERE / "RESULTS.md").write_text(header() + "\n".join(sections), encoding="utf-8")
    return 1 if short else 0


def header() -> str:
    machine = hardware()
    versions = ", ".join(f"{name} {v}" for name, v in package_versions().items() if v)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return (
        "# Measured\n\n"
        "`make bench` rewrites this page. Each block is what its script printed: both sides in one run, interleaved,\n"
        "medians; CPU seconds on one pinned core unless it says otherwise. Trust the ratios, not the seconds.\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{gpus}; {platform.system()}; {versions}.\n\n"
    )


if __name__ == "__main__":
    sys.exit(main())
