"""Labelled set from a folder, a file, or the spec of a source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgrec.data.purpose import for_evaluation
from imgrec.data.sources.base import SOURCES, SPLITS, Source
from imgrec.data.splits.assign import Rows
from imgrec.data.wrappers.class_mapping import map_classes
from imgrec.data.wrappers.training_split import rows_of
from imgrec.errors import UserError, suggestion
from imgrec.registry import Spec
from imgrec.utils import yaml
from imgrec.utils.paths import locate

_FILES = {".csv": ("csv", "file"), ".tsv": ("csv", "file"), ".parquet": ("parquet", "path"), ".tar": ("tar", "path")}
_CONFIGS = (".yaml", ".yml")


def source_spec(data: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"source": spec}`` for a labelled set, with ``classes`` if a config has them.

    Args:
        data: Folder of class folders, parquet or tar files, or a CSV, parquet or tar file. Alternatively a spec, the
            name of a source, or a YAML file with a spec or with ``data.source``.

    Raises:
        UserError: If it is none of these.

    >>> source_spec("digits"), source_spec("{name: csv, file: a.csv}")
    ({'source': 'digits'}, {'source': {'name': 'csv', 'file': 'a.csv'}})
    """
    if isinstance(data, Mapping):
        return _of_mapping(data, "DATA")
    text = str(data)
    if text.lstrip().startswith("{"):
        return _of_mapping(yaml.parse(text), "DATA")
    if text in SOURCES and not Path(text).expanduser().exists():
        return {"source": text}
    try:
        path = locate(text, "labelled set")
    except UserError as error:
        raise UserError(f"{error}.{suggestion(text, SOURCES.names())}") from error
    if path.is_dir():
        return {"source": _of_folder(path)}
    if path.suffix.lower() in _CONFIGS:
        return _of_mapping(yaml.parse(path.read_text(encoding="utf-8")), str(path))
    if path.suffix.lower() in _FILES:
        name, argument = _FILES[path.suffix.lower()]
        return {"source": {"name": name, argument: str(path.absolute())}}
    raise UserError(
        f"{path}: expected a folder, a file {', '.join([*_FILES, *_CONFIGS])}, or the spec of a source such as "
        "'{name: csv, file: labels.csv}'."
    )


def build_whole_source(spec: Spec, classes: Any = None) -> Source:
    """Build a source for the evaluation of everything in it.

    It may lack training images and may have a single class.

    Args:
        spec: the spec of the source.
        classes: a mapping of its classes, see :func:`imgrec.data.map_classes`.

    Raises:
        UserError: If the source cannot be built.
    """
    with for_evaluation():
        return map_classes(SOURCES.build(spec, "DATA"), classes, "classes")


def rows_in_split(source: Source, split: str | None) -> Rows:
    """Return the rows of a given split of the source, or all rows for ``None``.

    Raises:
        UserError: If the source has no such split. The message has the splits that it has.
    """
    if split is None:
        return np.arange(len(source))
    if split not in SPLITS:
        raise UserError(f'--split: expected {", ".join(SPLITS)}, got "{split}".{suggestion(split, SPLITS)}')
    rows = rows_of(source.splits, split)
    if not len(rows):
        counts = {word: source.splits.count(word) for word in (*SPLITS, None)}
        has = ", ".join(f"{count:,} {word or 'without a split'}" for word, count in counts.items() if count)
        raise UserError(f"--split {split}: the set has no such images. It has: {has}.")
    return rows


def _of_mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected the spec of a source, or a config with data.source, got {given!r}.")
    if "name" in given:
        return {"source": dict(given)}
    data = given.get("data", given)
    arguments = data.get("init_args", data) if isinstance(data, Mapping) else {}
    if "source" not in arguments:
        raise UserError(f"{where}: expected `name`, `source` or `data.source`, got the keys {', '.join(given)}.")
    classes = arguments.get("classes")
    return {"source": arguments["source"], **({"classes": classes} if classes is not None else {})}


def _of_folder(path: Path) -> dict[str, Any]:
    endings = {each.suffix.lower() for each in path.iterdir() if each.is_file()}
    for ending in (".parquet", ".tar"):
        if ending in endings:
            name, argument = _FILES[ending]
            return {"name": name, argument: str(path.absolute())}
    return {"name": "folder", "root": str(path.absolute())}
