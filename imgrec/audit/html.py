"""The page ``audit.html`` with the findings of an audit and their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from imgrec.audit.audit import Audit
from imgrec.audit.findings import KINDS, UNREADABLE, Finding, Inventory
from imgrec.audit.messages import DECIDE, MODES, OPTIONS, RULES
from imgrec.data import BadImage
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.reports.html import is_tiny, render_page, thumbnail
from imgrec.utils.paths import write_text

MAX_SHOWN = 24
"""Largest number of images of one kind on the page. ``findings.csv`` lists all."""

_THUMBNAIL = 200
_LEAKS = ("duplicate_across_splits", "near_duplicate_across_splits")
_ACROSS = ("duplicate_across_classes", "near_duplicate_across_classes")
_COPIES = ("duplicate", "near_duplicate")


def write_page(path: str | Path, audit: Audit, title: str, normalization: str | None = None) -> Path:
    """Write the page as one self-contained HTML file, through a temporary file.

    Args:
        path: Path of the file.
        audit: Result of an audit.
        title: Name of the experiment or of the folder.
        normalization: Reason for which no normalization constants are recommended. Defaults to None, which shows the
            constants of the training images.

    Returns:
        Path of the file.
    """
    thumbnails = _Thumbnails(audit.inventory)
    content = {
        "title": title,
        "tiles": _tiles(audit),
        "statistics": audit.statistics,
        "classes": _classes(audit),
        "sizes": [(f"{w} x {h}", f"{count:,}") for (w, h), count in audit.statistics.sizes],
        "sections": list(_sections(audit, thumbnails)),
        "version": _version(),
        "normalization": normalization,
        "judged": audit.judged,
        "rules": RULES,
        "modes": [(OPTIONS[name], *MODES[name], name in audit.modes) for name in MODES],
    }
    write_text(path, render_page("imgrec.audit", "audit_template.html", content))
    return Path(path)


def finding_title(kind: str) -> str:
    """Return the heading of a kind of finding.

    >>> finding_title("near_duplicate_across_splits")
    'Near duplicates across splits'
    """
    plain = kind.replace("_", " ").capitalize()
    return plain.replace("uplicate", "uplicates").replace("Label error", "Suspected label errors")


class _Thumbnails:
    """Cache of images as data URIs, by position."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.cache: dict[int, tuple[str, bool]] = {}

    def get(self, position: int) -> dict[str, Any]:
        """Return the template variables of an image."""
        if position not in self.cache:
            try:
                with decoding():
                    image = self.inventory.source.load(int(self.inventory.rows[position])).permute(1, 2, 0).numpy()
                    self.cache[position] = thumbnail(image, _THUMBNAIL), is_tiny(image)
            except BadImage:
                self.cache[position] = "", False
        uri, tiny = self.cache[position]
        return {
            "uri": uri,
            "tiny": tiny,
            "id": self.inventory.id(position),
            "split": self.inventory.splits[position],
            "class_name": self.inventory.class_name(position),
        }


def _sections(audit: Audit, thumbnails: _Thumbnails) -> Iterator[dict[str, Any]]:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in audit.findings:
        by_kind[finding.kind].append(finding)
    for kind, found in by_kind.items():
        actions = {finding.position: finding.action for finding in found}
        shown = _one_per_pair(found, audit.inventory) if found[0].related is not None else found
        shown = shown[:MAX_SHOWN]
        names_only = kind in UNREADABLE
        yield {
            "kind": kind,
            "title": finding_title(kind),
            "meaning": KINDS[kind],
            "total": len(found),
            "shown": len(shown),
            "what": "pairs" if found[0].related is not None else "images",
            "names_only": names_only,
            "items": [
                {
                    "images": []
                    if names_only
                    else [thumbnails.get(p) for p in (finding.position, finding.related) if p is not None],
                    "id": audit.inventory.id(finding.position),
                    "split": audit.inventory.splits[finding.position],
                    "detail": finding.detail,
                    "action": _action(finding, actions, audit.inventory),
                }
                for finding in shown
            ],
        }


def _action(finding: Finding, actions: Mapping[int, str], inventory: Inventory) -> str:
    """Return the actions of a finding as in ``findings.csv``. Each action of a pair includes the id of its image."""
    if finding.related is None:
        return finding.action
    listed = [(position, actions.get(position, "")) for position in (finding.position, finding.related)]
    if {action for _, action in listed} == {DECIDE}:
        return "decide between the labels (--fix changes neither image)"
    return ", ".join(f"{action}: {inventory.id(position)}" for position, action in listed if action)


def _one_per_pair(found: list[Finding], inventory: Inventory) -> list[Finding]:
    """Return one finding for each pair, the one of the training image. Pairs with a test image are first."""
    selected: dict[frozenset[int | None], Finding] = {}
    for finding in sorted(found, key=lambda f: -inventory.ranks[f.position]):
        selected.setdefault(frozenset((finding.position, finding.related)), finding)
    ranks = inventory.ranks
    return sorted(selected.values(), key=lambda f: (min(ranks[p] for p in (f.position, f.related or 0)), -f.weight))


def _tiles(audit: Audit) -> list[dict[str, Any]]:
    counts, total = audit.counts, audit.statistics.total

    def count(kinds: Iterable[str]) -> int:
        return len({f.position for f in audit.findings if f.kind in kinds})

    others = tuple(kind for kind in counts if kind not in (*_LEAKS, *_ACROSS, *_COPIES, *UNREADABLE, "label_error"))
    tiles = [
        ("images", "Images", total, f"{len(audit.statistics.class_names)} classes"),
        ("leaks", "Across splits", count(_LEAKS), "images with a copy or near copy in another split"),
        ("across_classes", "Across classes", count(_ACROSS), "images with a copy or near copy in another class"),
        ("copies", "Copies", count(_COPIES), "in the same split and class"),
        ("unreadable", "Unreadable", count(UNREADABLE), "missing, empty, truncated, broken"),
        ("odd", "Outliers", count(others), "size, brightness, sharpness, colour, name"),
    ]
    if "label_error" in counts:
        tiles.append(("label_error", "Label errors", counts["label_error"], "suspected"))
    return [
        {"key": key, "name": name, "value": value, "text": f"{value:,}", "more": more}
        for key, name, value, more in tiles
    ]


def _classes(audit: Audit) -> list[dict[str, Any]]:
    found = audit.statistics
    largest = max(int(found.counts.sum(1).max()), 1)
    return [
        {"name": name, "counts": row.tolist(), "total": int(row.sum()), "share": f"{100 * row.sum() / largest:.1f}"}
        for name, row in zip(found.class_names, found.counts, strict=True)
    ]


def _version() -> str:
    try:
        return version("imgrec")
    except PackageNotFoundError:
        return ""
