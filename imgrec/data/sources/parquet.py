"""Parquet files of encoded images with their labels, in the layout of Hugging Face data sets."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from imgrec.data.decoding.image import BadImage, decode_image, readable
from imgrec.data.labels import ClassNames, warn_of_unlabelled
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.hf_schema import column_labels, column_values, find_layout, kept_columns
from imgrec.data.sources.shards import Paths, Shard, find_shards
from imgrec.data.sources.table_paths import decode_listed, portable_path
from imgrec.errors import UserError
from imgrec.utils import json_text
from imgrec.utils.paths import inside
from imgrec.utils.ranges import NonNegativeInt, check_ranges

_OPEN_FILES = 100


@SOURCES.register("parquet")
class Parquet(Source):
    """Parquet files with one encoded image and its label per row, such as Hugging Face data sets.

    The image column is a struct of ``bytes`` and ``path``, or binary. A list of labels per row, or several label
    columns of 0 and 1, are multi-label targets. Rows without a label (missing, or -1) are excluded with a warning. The
    other columns of numbers and text are in ``columns``.

    Labels are read at once. Images are read on request, one row group at a time. Reading in order is fast. In the
    random order of training, a whole row group is read for each image that is not in memory. ``data.cache`` avoids
    this, because it reads all rows once in order. The id of an image is its split and its row in the split.

    Args:
        path: File, folder, pattern such as ``data/train-*.parquet``, or list of these. A mapping
            ``{train: ..., test: ...}`` sets the splits. Otherwise the split is a word in the name of the file or of a
            folder.
        image_column: Column of the images. Defaults to the only column of that type.
        label_column: Column of the labels, or list of columns with one per class. Defaults to the column of classes, or
            ``label``.
        classes: Names of the classes in their order. Defaults to those in the file, or to the labels that occur.
        memory: Size of the row groups in memory, in megabytes for each process. Defaults to 256.

    Raises:
        UserError: If there is no such file or column, or if a file is no parquet file.

    Source: Lhoest et al. 2021, "Datasets: a community library for natural language processing", EMNLP,
    arXiv 2109.02846 (the layout).

    Example::

        source: {name: parquet, path: {train: data/train-*.parquet, test: data/test-*.parquet}}
    """

    @check_ranges
    def __init__(
        self,
        path: Paths,
        image_column: str | None = None,
        label_column: str | list[str] | None = None,
        classes: ClassNames | None = None,
        memory: NonNegativeInt = 256,
    ) -> None:
        shards = find_shards(path, ".parquet", "parquet file")
        schema, features = _schema(shards)
        layout = find_layout(schema, features, image_column, label_column)
        others = kept_columns(schema, layout)
        tables = [_read(shard.path, [*layout.labels, *others]) for shard in shards]
        table = pa.concat_tables(tables, promote_options="permissive")
        splits: list[str | None] = [s.split for s, part in zip(shards, tables, strict=True) for _ in range(len(part))]
        ids = number_rows(splits)
        labels = column_labels([table[name].to_pylist() for name in layout.labels], layout, ids, classes)
        warn_of_unlabelled(len(table) - len(labels.rows), len(table), str(shards[0].path))
        self._reader = _Reader([shard.path for shard in shards], layout.image, memory * 2**20)
        self._rows = labels.rows
        super().__init__(
            ids=[ids[row] for row in labels.rows.tolist()],
            targets=labels.targets,
            class_names=labels.class_names,
            splits=[splits[row] for row in labels.rows.tolist()],
            columns={name: column_values(table[name])[labels.rows] for name in others},
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        with readable(self.ids[index]):
            return decode_cell(*self._reader.cell(int(self._rows[index])))

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for path in self._reader.paths:
            yield path.stat().st_size.to_bytes(8, "little")

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for path in self._reader.paths:
            yield f"{path.stat().st_size} {path.stat().st_mtime_ns} ".encode()


def decode_cell(cell: Any, folder: Path | None) -> Tensor:
    """Decode the image of a cell, from its bytes or, without bytes, from the file at its path.

    Raises:
        BadImage: If the image cannot be read.
    """
    data, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is not None:
        return decode_image(bytes(data))
    if name:
        root = folder or Path()
        try:
            path = portable_path(str(name), root, "the path in this row")
            return decode_listed(inside(root, path, "path"))
        except UserError as error:
            raise BadImage(str(error)) from error
    raise BadImage("there is no image in this row")


class _Reader:
    """Reader of the cells of the image column of several files. The last used row groups stay in memory."""

    def __init__(self, paths: list[Path], column: str, memory: int) -> None:
        self.paths = paths
        self.column = column
        self.memory = memory
        self._places: list[tuple[int, int]] = []  # the file and the number in it of each row group
        lengths = [0]
        for number, path in enumerate(paths):
            metadata = pq.ParquetFile(path).metadata
            for group in range(metadata.num_row_groups):
                self._places.append((number, group))
                lengths.append(metadata.row_group(group).num_rows)
        self._starts = np.cumsum(lengths)
        self._reset()

    def cell(self, row: int) -> tuple[Any, Path]:
        """Return the cell and the folder of its file."""
        if self._process != os.getpid():  # a worker process opens the files again
            self._reset()
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        column = self._column(group)
        return column[row - int(self._starts[group])].as_py(), self.paths[self._places[group][0]].parent

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._files: dict[int, pq.ParquetFile] = {}

    def _column(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            number, place = self._places[group]
            if number not in self._files:
                if len(self._files) >= _OPEN_FILES:
                    self._files.clear()
                self._files[number] = pq.ParquetFile(self.paths[number], memory_map=True, pre_buffer=False)
            # without threads, because a forked worker process does not have the threads of its parent
            found = self._files[number].read_row_group(place, columns=[self.column], use_threads=False)[self.column]
            self._kept[group] = found
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > self.memory:
                self._kept.popitem(last=False)
            return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_kept", "_files")} | {"_process": None}


def _schema(shards: Sequence[Shard]) -> tuple[pa.Schema, dict[str, Any]]:
    """Return the columns of the first file, which all others must have, and their Hugging Face features."""
    schemas = []
    for shard in shards:
        try:
            schemas.append(pq.read_schema(shard.path))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard.path} cannot be read as a parquet file: {error}.") from error
        if set(schemas[-1].names) != set(schemas[0].names):
            raise UserError(
                f"{shard.path}: expected the columns of {shards[0].path} ({', '.join(schemas[0].names)}), got "
                f"{', '.join(schemas[-1].names)}."
            )
    first = schemas[0]
    noted = json_text.loads((first.metadata or {}).get(b"huggingface", b"{}"))
    return first, noted.get("info", {}).get("features", {})


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def number_rows(splits: list[str | None]) -> list[str]:
    """Return the id of each row: its split and its number in the split, with leading zeros."""
    counts = {split: splits.count(split) for split in set(splits)}
    seen = dict.fromkeys(counts, 0)
    ids = []
    for split in splits:
        number = f"{seen[split]:0{len(str(counts[split] - 1))}d}"
        ids.append(f"{split}/{number}" if split else number)
        seen[split] += 1
    return ids
