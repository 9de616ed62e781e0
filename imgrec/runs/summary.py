"""The JSON files of a run folder: summary.json, which grows, and environment.json."""

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
"""Key with the direction of the metrics that ``build_metrics`` of the task adds to METRICS, by name."""


def update_summary(run: str | os.PathLike[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``values`` into the run's summary.json, and give what then stands there.

    A mapping is merged into the mapping that has its key, so that ``{"test": ...}`` leaves ``"val"`` alone; any other
    value replaces. NumPy's and torch's scalars become plain numbers. JSON has no NaN and no infinity: they become
    ``null``. The file is written aside and renamed.

    Args:
        run: the run folder; a :class:`~imgrec.runs.folder.RunFolder` is one too.
        values: what to add.

    Raises:
        UserError: what stands in summary.json is not a JSON object.
    """
    path = Path(run) / SUMMARY
    merged = _merge(read_json(path) if path.exists() else {}, plain(values))
    write_json(path, merged)
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. A number that is not finite is given as ``None``.

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
        raise UserError(f"{path} should hold a JSON object, and holds a {type(found).__name__}")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object that a person can read, whole or not at all."""
    write_text(path, json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """``value`` as what JSON can hold: NumPy's and torch's scalars unpacked, NaN and infinities as ``None``."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a summary holds plain values, not a {type(value).__name__}")


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
