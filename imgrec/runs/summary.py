"""JSON files of a run folder: summary.json and environment.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgrec.errors import UserError
from imgrec.utils import json_text
from imgrec.utils.paths import write_text

SUMMARY = "summary.json"
HIGHER_IS_BETTER = "higher_is_better"
"""Key of the directions of the metrics that ``build_metrics`` of a task adds, by name."""


def update_summary(run: str | os.PathLike[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values into summary.json of a run atomically, and return its new content.

    Mappings are merged recursively, so that ``{"test": ...}`` does not change ``"val"``. Other values are replaced.
    Scalars of NumPy and torch become numbers. NaN and infinity become ``null``.

    Args:
        run: Run folder.
        values: Values to add.

    Raises:
        UserError: If summary.json is no JSON object.
    """
    path = Path(run) / SUMMARY
    merged = _merge(read_json(path) if path.exists() else {}, to_plain(values))
    write_json(path, merged)
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. A number that is not finite is returned as ``None``.

    Raises:
        UserError: If there is no such file, or it contains something else.
    """
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"), finite=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with indentation, atomically."""
    write_text(path, json.dumps(to_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_plain(value: Any) -> Any:
    """Convert a value to JSON-serializable data: scalars to numbers, NaN and infinity to ``None``."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return to_plain(value.item())
    raise TypeError(f"summary: expected plain values, got {type(value).__name__}")


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
