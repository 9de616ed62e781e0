"""Command that prints the violations of the wording rules, or lowers their baseline."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

from tests.language_rules.baseline import (
    BASELINE,
    count_violations,
    exceeded,
    lowered,
    moved,
    read_baseline,
    totals,
    write_baseline,
)
from tests.language_rules.blocks import Violation
from tests.language_rules.collect import ROOT, find_violations, statistics


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.language_rules", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files or folders (default: the whole repository)")
    parser.add_argument("--rule", action="append", metavar="NAME", help="print violations of this rule only")
    parser.add_argument("--new", action="store_true", help="print the files and rules above their baseline only")
    parser.add_argument("--summary", action="store_true", help="print counts per rule and folder, and statistics")
    parser.add_argument("--update", action="store_true", help="lower the baseline to the present counts")
    parser.add_argument(
        "--moved",
        action="store_true",
        help="lower the baseline, and accept the violations of files that have no baseline because they were moved or "
        "split, if the total of no rule grows",
    )
    return parser


def _print_summary(violations: list[Violation]) -> None:
    for rule, count in Counter(each.rule for each in violations).most_common():
        print(f"{count:7,}  {rule}")
    print()
    folders = Counter("/".join(PurePosixPath(each.path).parent.parts[:2]) or "." for each in violations)
    for folder, count in sorted(folders.items()):
        print(f"{count:7,}  {folder}")
    print(f"{len(violations):7,}  in all")


def _update(allow_moved: bool) -> int:
    present = count_violations(find_violations())
    accepted = read_baseline()
    if not BASELINE.is_file():
        write_baseline(present)
    elif allow_moved:
        counts, grown = moved(present, accepted)
        if grown:
            print(
                "The baseline was not written. Totals would grow:",
                *(f"  {k}: +{v}" for k, v in grown.items()),
                sep="\n",
            )
            return 1
        write_baseline(counts)
    else:
        write_baseline(lowered(present, accepted))
    above = exceeded(present, read_baseline())
    print(f"baseline: {sum(totals(accepted).values()):,} before, {sum(totals(read_baseline()).values()):,} now")
    for path, rules in above.items():
        print(f"{path}: above its baseline: {', '.join(rules)}")
    return 1 if above else 0


def main() -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args()
    if options.update or options.moved:
        return _update(options.moved)
    paths = [str(Path(each).resolve().relative_to(ROOT)) for each in options.paths]
    violations = find_violations(paths)
    if options.rule:
        violations = [each for each in violations if each.rule in options.rule]
    if options.new:
        above = exceeded(count_violations(violations), read_baseline())
        violations = [each for each in violations if each.rule in above.get(each.path, {})]
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
