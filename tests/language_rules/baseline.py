"""The accepted number of violations of each file and rule, which only decreases."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.language_rules.blocks import Violation

BASELINE = Path(__file__).resolve().parents[1] / "language_baseline.json"

Counts = dict[str, dict[str, int]]

_LINE = re.compile(r'^\s*("[^"]+"):\s*(\{[^{}]*\}),?\s*$')


def count_violations(violations: Iterable[Violation]) -> Counts:
    """Return the number of violations by path and rule."""
    counted = Counter((each.path, each.rule) for each in violations)
    found: Counts = {}
    for (path, rule), count in sorted(counted.items()):
        found.setdefault(path, {})[rule] = count
    return found


def parse_baseline(text: str) -> Counts:
    """Return the counts of a baseline file. If a merge left both sides in it, the lower count of each rule is used.

    >>> parse_baseline('{"a.py": {"else": 2}}')
    {'a.py': {'else': 2}}
    """
    try:
        loaded: Counts = json.loads(text)
        return loaded
    except json.JSONDecodeError:
        found: Counts = {}
        for match in filter(None, map(_LINE.match, text.splitlines())):
            path, counts = json.loads(match[1]), json.loads(match[2])
            before = found.get(path, counts)
            found[path] = {rule: min(count, before.get(rule, 0)) for rule, count in counts.items()}
        return found


def read_baseline() -> Counts:
    """Return the accepted counts."""
    return parse_baseline(BASELINE.read_text(encoding="utf-8")) if BASELINE.is_file() else {}


def write_baseline(counts: Counts) -> None:
    """Write the accepted counts, one line per file."""
    kept = {path: {rule: count for rule, count in sorted(rules.items()) if count} for path, rules in counts.items()}
    lines = [f"  {json.dumps(path)}: {json.dumps(rules)}" for path, rules in sorted(kept.items()) if rules]
    BASELINE.write_text("{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n", encoding="utf-8")


def totals(counts: Counts) -> Counter[str]:
    """Return the number of violations by rule."""
    found: Counter[str] = Counter()
    for rules in counts.values():
        found.update(rules)
    return found


def exceeded(present: Counts, accepted: Counts) -> Counts:
    """Return the accepted counts of the files and rules that have more violations than accepted."""
    found: Counts = {}
    for path, rules in present.items():
        for rule, count in rules.items():
            if count > accepted.get(path, {}).get(rule, 0):
                found.setdefault(path, {})[rule] = accepted.get(path, {}).get(rule, 0)
    return found


def lowered(present: Counts, accepted: Counts) -> Counts:
    """Return the accepted counts reduced to the present ones.

    >>> lowered({"a.py": {"else": 1, "what": 3}}, {"a.py": {"else": 2}, "b.py": {"else": 1}})
    {'a.py': {'else': 1}}
    """
    found: Counts = {}
    for path, rules in accepted.items():
        counts = {rule: min(count, present.get(path, {}).get(rule, 0)) for rule, count in rules.items()}
        counts = {rule: count for rule, count in counts.items() if count}
        if counts:
            found[path] = counts
    return found


def moved(present: Counts, accepted: Counts) -> tuple[Counts, Mapping[str, int]]:
    """Return the counts after files were moved, merged or split, and by how much the total of a rule would grow.

    Files without accepted counts receive their present counts. If a total would grow, nothing may be written.
    """
    found = lowered(present, accepted)
    for path, rules in present.items():
        if path not in accepted:
            found[path] = dict(rules)
    grown = totals(found) - totals(accepted)
    return found, grown
