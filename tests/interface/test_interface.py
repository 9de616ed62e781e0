"""The stable interface: names, arguments, flags and exit statuses may be added, but not removed or changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interface.collect import collect

STABLE = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def present() -> dict[str, Any]:
    return collect()


def differences(stable: Any, present: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of values that were removed or changed."""
    if isinstance(stable, dict):
        for key, value in stable.items():
            if key not in present:
                yield f"{path}/{key}: removed"
            else:
                yield from differences(value, present[key], f"{path}/{key}")
    elif isinstance(stable, list):
        yield from (f"{path}: {each} removed" for each in stable if each not in present)
    elif stable != present:
        yield f"{path}: {stable} became {present}"


@pytest.mark.parametrize("section", sorted(STABLE))
def test_nothing_was_removed_or_changed(section: str, present: dict[str, Any]) -> None:
    assert list(differences(STABLE[section], present[section], section)) == []


def test_differences_are_found() -> None:
    found = differences({"a": {"x": "1", "y": "2"}, "b": ["c", "d"]}, {"a": {"x": "3"}, "b": ["d", "e"]})
    assert list(found) == ["/a/x: 1 became 3", "/a/y: removed", "/b: c removed"]
