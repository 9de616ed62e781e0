"""Runs benchmarks and puts what they print into RESULTS.md, each in the place of what it printed before.

Without a name all are run, which takes half a day; with names, ``step_overhead startup`` say, those alone: the other
sections stay as they are. ``--quick`` runs the rough versions and leaves RESULTS.md alone.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from imgrec.runs.environment import describe_hardware, package_versions

HERE = Path(__file__).parent
PAGE = HERE / "RESULTS.md"
NO_CLAIM = ("run_all", "article")
HEADER = """# Measured

`make bench` rewrites these sections, `make bench ARGS=startup` one of them. Each block is what its script printed: both
sides in one run, interleaved, medians; CPU seconds on one pinned core unless it says otherwise. Trust the ratios, not
the seconds.
"""


def main() -> int:
    scripts = {p.stem: p for p in sorted(HERE.glob("*.py")) if not p.stem.endswith("common") and p.stem not in NO_CLAIM}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(scripts)}; by default all")
    parser.add_argument("--quick", action="store_true", help="under 60 s each, rougher; nothing is written")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in scripts]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(scripts)}")
    short = 0
    for name in options.names or scripts:
        command = [sys.executable, scripts[name].name, *(["--quick"] if options.quick else [])]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        print(f"## {name}.py\n{done.stdout}{done.stderr}", flush=True)
        short += done.returncode != 0
        if not options.quick and done.stdout:
            page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEADER
            PAGE.write_text(
                with_section(page, f"{name}.py", f"{conditions()}\n\n```\n{done.stdout.strip()}\n```"), "utf-8"
            )
    return 1 if short else 0


def with_section(page: str, title: str, text: str) -> str:
    r"""The page with ``text`` as its section ``title``, in the place of the one that it had; sections are sorted.

    >>> print(with_section("# Measured\n\n## b\n\nold\n", "a", "new"))
    # Measured
    <BLANKLINE>
    ## a
    <BLANKLINE>
    new
    <BLANKLINE>
    ## b
    <BLANKLINE>
    old
    <BLANKLINE>
    """
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    kept = dict(section.split("\n", 1) for section in sections)
    kept[title] = text
    return head.strip() + "\n" + "".join(f"\n## {name}\n\n{kept[name].strip()}\n" for name in sorted(kept))


def conditions() -> str:
    """The date, the machine and the versions, in a line."""
    machine = describe_hardware()
    versions = ", ".join(f"{name} {v}" for name, v in package_versions().items() if v)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{gpus}; {platform.system()}; {versions}."
    )


if __name__ == "__main__":
    sys.exit(main())
