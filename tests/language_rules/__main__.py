"""Command that prints the violations of the wording rules."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

from tests.language_rules.blocks import Violation
from tests.language_rules.collect import ROOT, find_violations, statistics


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.language_rules", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files or folders (default: the whole repository)")
    parser.add_argument("--rule", action="append", metavar="NAME", help="print violations of this rule only")
    parser.add_argument("--summary", action="store_true", help="print counts per rule and folder, and statistics")
    return parser


def _print_summary(violations: list[Violation]) -> None:
    for rule, count in Counter(each.rule for each in violations).most_common():
        print(f"{count:7,}  {rule}")
    print()
    folders = Counter("/".join(PurePosixPath(each.path).parent.parts[:2]) or "." for each in violations)
    for folder, count in sorted(folders.items()):
        print(f"{count:7,}  {folder}")
    print(f"{len(violations):7,}  in all")


def main() -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args()
    paths = [str(Path(each).resolve().relative_to(ROOT)) for each in options.paths]
    violations = find_violations(paths)
    if options.rule:
        violations = [each for each in violations if each.rule in options.rule]
    if not options.summary:
        for each in violations:
            print(f"{each.path}:{each.line}: {each.rule}: {each.text}")
        print()
    _print_summary(violations)
    if options.summary:
        print()
        for name, value in statistics().items():
            print(f"{name}: {value}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
