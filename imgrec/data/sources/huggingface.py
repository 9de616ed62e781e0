"""Data sets of the Hugging Face Hub, by name."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from imgrec.data.decoding.image import readable
from imgrec.data.labels import ClassNames, warn_of_unlabelled
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.hf_schema import column_labels, column_values, find_layout, kept_columns
from imgrec.data.sources.parquet import decode_cell, number_rows
from imgrec.data.splits.names import find_split, unknown_split
from imgrec.errors import UserError

logger = logging.getLogger(__name__)


@SOURCES.register("hub")
class Hub(Source):
    """Data set of the Hugging Face Hub, by name (extra: `hub`).

    It is downloaded once into the cache of the library ``datasets`` and memory-mapped. Downloaded data works offline
    with ``HF_DATASETS_OFFLINE=1``. Folders of ``save_to_disk`` are supported too. Splits whose names are not in
    :data:`imgrec.data.splits.names.SPLIT_NAMES` are excluded with a warning, unless ``splits`` contains them.

    Args:
        dataset: Name of the data set, ``uoft-cs/cifar10``, or folder in a format of ``datasets``.
        config: Name of the configuration. Defaults to the only one.
        revision: Tag, branch or commit. Only a commit always means the same data. Defaults to the latest version.
        splits: Splits by the names in the data set: ``{train: train, dev: val}``. Defaults to the usual names.
        image_column: Column of the images. Defaults to the only column of that type.
        label_column: Column of the labels, or list of columns with one per class. Defaults to the column of classes, or
            ``label``.
        classes: Names of the classes in their order. Defaults to those of the data set, or to the labels that occur.

    Raises:
        UserError: If the library is not installed, if the data set cannot be downloaded, or if there is no such
            configuration, split or column.

    See also: the source `parquet`, which reads Parquet files without this library.

    Source: Lhoest et al. 2021, "Datasets: a community library for natural language processing", EMNLP,
    arXiv 2109.02846.

    Example::

        source: {name: hub, dataset: uoft-cs/cifar10}
    """

    def __init__(
        self,
        dataset: str,
        config: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        image_column: str | None = None,
        label_column: str | list[str] | None = None,
        classes: ClassNames | None = None,
    ) -> None:
        self.check_arguments(dataset, splits=splits)
        self._parts = _parts(_load(dataset, config, revision), splits, dataset)
        first = next(iter(self._parts.values()))
        layout = find_layout(first.data.schema, first.features.to_dict(), image_column, label_column)
        others = kept_columns(first.data.schema, layout)
        found: list[str | None] = [split for split, part in self._parts.items() for _ in range(len(part))]
        ids = number_rows(found)
        tables = [
            part.with_format("arrow").select_columns([*layout.labels, *others])[:] for part in self._parts.values()
        ]
        values = [[value for table in tables for value in table[name].to_pylist()] for name in layout.labels]
        labels = column_labels(values, layout, ids, classes)
        warn_of_unlabelled(len(ids) - len(labels.rows), len(ids), dataset)
        self._image = layout.image
        self._rows = labels.rows
        self._starts = np.cumsum([0, *map(len, self._parts.values())])
        self._cells = [part.with_format("arrow").select_columns([layout.image]) for part in self._parts.values()]
        super().__init__(
            ids=[ids[row] for row in labels.rows.tolist()],
            targets=labels.targets,
            class_names=labels.class_names,
            splits=[found[row] for row in labels.rows.tolist()],
            columns={
                name: np.concatenate([column_values(table[name]) for table in tables])[labels.rows] for name in others
            },
        )

    @staticmethod
    def check_arguments(dataset: str, splits: dict[str, str] | None = None, **_: Any) -> None:
        """Check the arguments before any file is read.

        Raises:
            UserError: If the library is not installed, or if ``splits`` contains an unknown split.
        """
        for word in (splits or {}).values():
            if find_split(word) is None:
                raise UserError(f"splits: {unknown_split(word)}")
        try:
            importlib.import_module("datasets")
        except ImportError as error:
            raise UserError(
                f'{dataset}: data sets of the Hub require the library datasets: pip install "imgrec[hub]". The source '
                "`parquet` reads local Parquet files without it."
            ) from error

    def load(self, index: int) -> Tensor:  # noqa: D102
        row = int(self._rows[index])
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        with readable():
            table = self._cells[number][row - int(self._starts[number])]
            return decode_cell(table[self._image][0].as_py(), None)

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for part in self._parts.values():
            yield f"{part._fingerprint} ".encode()


def _load(dataset: str, config: str | None, revision: str | None) -> Any:
    datasets = importlib.import_module("datasets")
    try:
        if (Path(dataset) / "dataset_dict.json").exists() or (Path(dataset) / "state.json").exists():
            return datasets.load_from_disk(dataset)
        return datasets.load_dataset(dataset, config, revision=revision)
    except Exception as error:  # the library raises errors of many types, also of its dependencies
        offline = " (HF_DATASETS_OFFLINE is set)" if os.environ.get("HF_DATASETS_OFFLINE", "0") not in ("", "0") else ""
        raise UserError(f"{dataset} cannot be loaded from the Hugging Face Hub{offline}: {error}") from error


def _parts(found: Any, given: dict[str, str] | None, dataset: str) -> dict[str | None, Any]:
    """Return the used parts of the data set by split."""
    if not hasattr(found, "keys"):
        return {None: found}
    if given is None:
        words = {name: split for name in found if (split := find_split(name)) is not None}
    else:
        words = {name: split for name, word in given.items() if (split := find_split(word)) is not None}
    missing = [name for name in words if name not in found]
    if missing or not words:
        raise UserError(
            f"{dataset} has no split {', '.join(missing) or 'for training by its name'}. It has: {', '.join(found)}. "
            "The argument `splits` assigns them: {train: NAME}."
        )
    if len(set(words.values())) < len(words):
        raise UserError(
            f"splits: two splits of {dataset} have one meaning: {words}. The argument `splits` selects one for each."
        )
    if given is None and len(words) < len(found):
        unknown = ", ".join(name for name in found if name not in words)
        logger.warning("%s: left out, because they are not named like a split: %s", dataset, unknown)
    return {word: found[name] for name, word in words.items()}
