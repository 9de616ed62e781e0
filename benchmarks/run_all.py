"""Run benchmarks and write their output to RESULTS.md, where it replaces the previous output.

Without names, all benchmarks are run, which takes half a day. With names (``step_overhead startup``), only these are
run and the other sections are unchanged. ``--quick`` runs the short versions and does not write RESULTS.md.
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

`make bench` rewrites all sections, `make bench ARGS=startup` one section. Each block is the output of one script. Both
sides of a comparison are measured in one run, in interleaved rounds. Times are medians of CPU seconds on one pinned
core, unless stated otherwise. The ratios are more reliable than the seconds.
"""


def main() -> int:
    scripts = {p.stem: p for p in sorted(HERE.glob("*.py")) if not p.stem.endswith("common") and p.stem not in NO_CLAIM}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(scripts)}. Defaults to all.")
    parser.add_argument(
        "--quick", action="store_true", help="run the short versions (under 60 s each) without writing RESULTS.md"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in scripts]:
        parser.error(f"NAME: expected one of {', '.join(scripts)}, got {', '.join(unknown)}.")
    num_failed = 0
    for name in options.names or scripts:
        command = [sys.executable, scripts[name].name, *(["--quick"] if options.quick else [])]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        print(f"## {name}.py\n{done.stdout}{done.stderr}", flush=True)
        num_failed += done.returncode != 0
        if not options.quick and done.stdout:
            page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEADER
            PAGE.write_text(
                with_section(page, f"{name}.py", f"{conditions()}\n\n```\n{done.stdout.strip()}\n```"), "utf-8"
            )
    return 1 if num_failed else 0


def with_section(page: str, title: str, text: str) -> str:
    r"""Return the page with ``text`` as its section ``title``, which replaces a present one. Sections are sorted.

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
    """Return date, machine and package versions as one line."""
    machine = describe_hardware()
    versions = ", ".join(f"{name} {v}" for name, v in package_versions().items() if v)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{gpus}; {platform.system()}; {versions}."
    )


if __name__ == "__main__":
    sys.exit(main())
