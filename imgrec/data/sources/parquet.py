"""Parquet files of encoded images with their labels, in the layout of Hugging Face's data sets."""

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
from imgrec.data.sources.hf_schema import find_layout, kept_columns, labels_of, plain
from imgrec.data.sources.shards import Paths, Shard, find_shards
from imgrec.data.sources.table_paths import decode_listed, portable_path
from imgrec.errors import UserError
from imgrec.utils import json_text
from imgrec.utils.paths import inside

_OPEN_FILES = 100


@SOURCES.register("parquet")
class Parquet(Source):
    """Parquet files that hold one image a row, encoded, and its label: those of Hugging Face's data sets, or one's own.

    The image column is a struct of ``bytes`` and ``path``, or binary. A list of labels a row, or several label columns
    of 0 and 1, are multi-label targets. Rows without a label (missing, or -1) are left out, with a warning. The other
    columns of numbers and words are in ``columns``.

    The labels are read at once, images when they are asked for, a row group at a time: reading in order is quick, but
    in the random order of training a whole row group is read for each image that is not in memory. ``data.cache``,
    which reads everything once in order, spares that. An image's id is the split and its row in it.

    Args:
        path: a file, a folder, a pattern such as ``data/train-*.parquet``, several of them, or these by split:
            ``{train: ..., test: ...}``. Without that the split is a word in the file's name or a folder's name.
        image_column: the column of the images; by default the one that is of that kind.
        label_column: the column of the labels, or several, one a class; by default the one of classes, or ``label``.
        classes: the names of the classes, in their order; by default those that the file names, or that occur.
        memory: how many megabytes of row groups to keep in memory, in each process.

    Raises:
        UserError: there is no such file or column, or it is no parquet file.

    Source: Lhoest et al. 2021, "Datasets: a community library for natural language processing", EMNLP,
    arXiv 2109.02846, for the layout.

    Example::

        source: {name: parquet, path: {train: data/train-*.parquet, test: data/test-*.parquet}}
    """

    def __init__(
        self,
        path: Paths,
        image_column: str | None = None,
        label_column: str | list[str] | None = None,
        classes: ClassNames | None = None,
        memory: int = 256,
    ) -> None:
        if memory < 0:
            raise UserError(f"memory: must be 0 or more megabytes, got {memory}.")
        shards = find_shards(path, ".parquet", "parquet file")
        schema, features = _schema(shards)
        layout = find_layout(schema, features, image_column, label_column)
        others = kept_columns(schema, layout)
        tables = [_read(shard.path, [*layout.labels, *others]) for shard in shards]
        table = pa.concat_tables(tables, promote_options="permissive")
        splits: list[str | None] = [s.split for s, part in zip(shards, tables, strict=True) for _ in range(len(part))]
        ids = number_rows(splits)
        labels = labels_of([table[name].to_pylist() for name in layout.labels], layout, ids, classes)
        warn_of_unlabelled(len(table) - len(labels.rows), len(table), str(shards[0].path))
        self._reader = _Reader([shard.path for shard in shards], layout.image, memory * 2**20)
        self._rows = labels.rows
        super().__init__(
            ids=[ids[row] for row in labels.rows.tolist()],
            targets=labels.targets,
            class_names=labels.class_names,
            splits=[splits[row] for row in labels.rows.tolist()],
            columns={name: plain(table[name])[labels.rows] for name in others},
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
    """The image of a cell: its bytes, or the file that it names where there are none.

    Raises:
        BadImage: it cannot be read.
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
    """Cells of the image column by row, over several files; the row groups that were used last stay in memory."""

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
        self._begin()

    def cell(self, row: int) -> tuple[Any, Path]:
        """The cell, and the folder that its file lies in."""
        if self._process != os.getpid():  # a worker process opens the files anew
            self._begin()
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        column = self._column(group)
        return column[row - int(self._starts[group])].as_py(), self.paths[self._places[group][0]].parent

    def _begin(self) -> None:
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
            # without threads: a forked worker process has none of those that its parent had
            found = self._files[number].read_row_group(place, columns=[self.column], use_threads=False)[self.column]
            self._kept[group] = found
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > self.memory:
                self._kept.popitem(last=False)
            return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_kept", "_files")} | {"_process": None}


def _schema(shards: Sequence[Shard]) -> tuple[pa.Schema, dict[str, Any]]:
    """The columns of the first file, which all others must have, and what Hugging Face's libraries note of them."""
    schemas = []
    for shard in shards:
        try:
            schemas.append(pq.read_schema(shard.path))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard.path} cannot be read as a parquet file: {error}.") from error
        if set(schemas[-1].names) != set(schemas[0].names):
            raise UserError(
                f"{shard.path} has the columns {', '.join(schemas[-1].names)}; {shards[0].path} has "
                f"{', '.join(schemas[0].names)}."
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
    """The id of each row: its split and its number in it, with leading zeros."""
    counts = {split: splits.count(split) for split in set(splits)}
    seen = dict.fromkeys(counts, 0)
    ids = []
    for split in splits:
        number = f"{seen[split]:0{len(str(counts[split] - 1))}d}"
        ids.append(f"{split}/{number}" if split else number)
        seen[split] += 1
    return ids
