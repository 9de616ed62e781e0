"""A config as one flat row: the columns of W&B, of a table of runs, of a comparison, of a refusal to resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SPECS = frozenset(
    ("backbone", "neck", "head", "loss", "optimizer", "schedule", "source", "sampler", "teacher", "pooling")
)
"""Arguments that are specs: a bare name there means ``{name: ...}``."""


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config as ``{column: plain value}``, columns with slashes, in the config's order.

    What the task takes stands at the top (``loss/name``, ``optimizer/lr``), everything else under its own key
    (``data/batch_size``, ``trainer/max_epochs``, ``seed_everything``); a spec that is a bare name is ``<key>/name``.
    Elements of a list are numbered. An empty list or mapping is a value; so is a list of plain values.

    >>> flat_config({"model": {"init_args": {"loss": "focal", "optimizer": {"name": "adamw", "lr": 0.1}}}})
    {'loss/name': 'focal', 'optimizer/name': 'adamw', 'optimizer/lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("model", "data") and isinstance(value, Mapping):
            top = "" if key == "model" else f"{key}/"
            flat |= {f"{key}/{name}": each for name, each in value.items() if name != "init_args"}
            for name, each in (value.get("init_args") or {}).items():
                spec = {"name": each} if name in _SPECS and isinstance(each, str) else each
                _flatten(spec, f"{top}{name}", flat)
        else:
            _flatten(value, key, flat)
    return flat


def differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The columns of several configs whose values are not all the same: ``{column: {run: value}}``.

    A run that lacks a column is left out of that column's mapping.

    >>> differing({"a": {"seed_everything": 0, "runs": "r"}, "b": {"seed_everything": 1, "runs": "r"}})
    {'seed_everything': {'a': 0, 'b': 1}}
    """
    rows = {run: flat_config(config) for run, config in configs.items()}
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    found = {column: {run: row[column] for run, row in rows.items() if column in row} for column in columns}
    return {
        c: v for c, v in found.items() if len(v) < len(rows) or any(x != next(iter(v.values())) for x in v.values())
    }


def as_column(key: str) -> str:
    """Return the column that a dotted key of the config means.

    >>> as_column("model.optimizer.lr"), as_column("trainer.max_epochs"), as_column("optimizer/lr")
    ('optimizer/lr', 'trainer/max_epochs', 'optimizer/lr')
    """
    parts = [part for part in key.replace(".", "/").split("/") if part != "init_args"]
    return "/".join(parts[1:] if parts[0] == "model" and len(parts) > 1 else parts)


def covers(key: str, columns: Iterable[str]) -> bool:
    """Return True if ``key`` is one of the columns or the beginning of one: ``optimizer`` of ``optimizer/lr``."""
    return any(column == key or column.startswith(f"{key}/") for column in columns)


def _flatten(value: Any, column: str, into: dict[str, Any]) -> None:
    nested = isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value)
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            _flatten(each, f"{column}/{name}", into)
    elif nested:
        for i, each in enumerate(value):
            _flatten(each, f"{column}/{i}", into)
    else:
        into[column] = value
