"""Startup time of ``imgrec --help`` and ``imgrec list --help``, compared with an empty Python process."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from common import Claim, child_cpu_seconds, finish, measure_interleaved, parse_options, pin, print_table

GOAL = 0.15


def main() -> None:
    options = parse_options(__doc__ or "")
    pin()
    imgrec = str(Path(sys.executable).with_name("imgrec"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "imgrec --help": [imgrec, "--help"],
        "imgrec list --help": [imgrec, "list", "--help"],
    }
    found = measure_interleaved(
        {name: lambda command=command: child_cpu_seconds(command) for name, command in commands.items()},
        rounds=10 if options.quick else 40,
    )
    print_table(found, "CPU s", base="python -c pass")
    claims = []
    for name in ("imgrec --help", "imgrec list --help"):
        more = statistics.median(a - b for a, b in zip(found[name], found["python -c pass"], strict=True))
        claims.append(Claim(name, f"{more:.3f} CPU s more", f"at most {GOAL}", more <= GOAL))
    finish(claims)


if __name__ == "__main__":
    main()
