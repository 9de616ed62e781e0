"""A CSV file with a path and a label in each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from imgrec.data.decoding.image import file_size, file_state
from imgrec.data.labels import ClassNames, read_labels, read_table
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.csv_rows import read_csv
from imgrec.data.sources.table_paths import decode_listed, portable_path
from imgrec.data.splits.names import find_split, unknown_split
from imgrec.errors import UserError
from imgrec.utils.paths import locate

_HINT = "The arguments path_column, label_column and split_column name the columns."


@SOURCES.register("csv")
class CsvTable(Source):
    """Image files that a CSV file lists, each with its label and, optionally, its split.

    The first row contains the column names. The file is UTF-8 text. A cell that contains the delimiter or a quote is in
    double quotes. The delimiter is a comma, semicolon, tab or vertical bar, whichever gives the required columns.

    Paths are relative to ``root`` or absolute, with slashes or backslashes. A file that does not exist counts as an
    image that cannot be read. Its finding contains the full path. Without ``classes``, the classes are the
    labels that occur, sorted as numbers if all of them are whole numbers, otherwise as text. A row with an empty cell
    in the split column belongs to the training images, from which missing splits are taken.

    Args:
        file: CSV file. A relative path is looked up in the current folder, then under ``IMGREC_DATA``.
        root: Folder of relative image paths. Defaults to the folder of the CSV file.
        path_column: Column of the image paths. Defaults to ``path``.
        label_column: Column of the labels, or list of columns with one per class, which contain 1 for images of the
            class and otherwise 0 (multi-label). Defaults to ``label``.
        split_column: Column of the splits, with the names that folders of splits may have. Defaults to the column
            ``split`` if there is one.
        classes: Accepted labels, text or numbers, in their order. Any other label is an error. Defaults to the labels
            that occur.
        delimiter: Character between two cells. Defaults to the one that the header contains.
        label_separator: Text between two labels of one image, for example ``|`` (multi-label). Defaults to one label
            per image.
        outside_root: True to accept absolute paths and paths with ``..`` that lead out of ``root``. Defaults to False.

    Raises:
        UserError: If the file, the folder or a column is missing, or if a row is invalid. The message contains the
            line.

    Example::

        source: {name: csv, file: cells/labels.csv, path_column: file, label_column: kind}
    """

    def __init__(
        self,
        file: str,
        root: str | None = None,
        path_column: str = "path",
        label_column: str | list[str] = "label",
        split_column: str | None = None,
        classes: ClassNames | None = None,
        delimiter: str | None = None,
        label_separator: str | None = None,
        outside_root: bool = False,
    ) -> None:
        path = locate(file, "CSV file")
        self.root = locate(root, "data folder") if root is not None else path.parent
        label_columns = [label_column] if isinstance(label_column, str) else label_column
        several = label_separator is not None or not isinstance(label_column, str)
        table = read_csv(path, (path_column, *label_columns), delimiter)
        if split_column is None and "split" in table.header:
            split_column = "split"
        named = (path_column, *label_columns, *([split_column] if split_column else []))
        columns = {name: table.column(name, _HINT) for name in named}
        paths: list[str] = []
        labels: list[list[str]] = []
        splits: list[str | None] = []
        for row in table.rows:
            cells = {name: row.cells[at] for name, at in columns.items()}
            for name in (path_column, *([] if several else label_columns)):
                if not cells[name]:
                    raise UserError(f'{table.place(row)}: nothing in the column "{name}".')
            place = f'{table.place(row)}, column "{path_column}"'
            paths.append(portable_path(cells[path_column], self.root, place, outside_root))
            labels.append([cells[name] for name in label_columns])
            splits.append(_split(cells[split_column], table.place(row)) if split_column else None)
        if not paths:
            raise UserError(f"no image at all: {path} has no row below its column names.")
        places = [table.place(row) for row in table.rows]
        if several and label_separator is None:
            found = read_table(dict(zip(label_columns, zip(*labels, strict=True), strict=True)), places)
        else:
            values = [_split_labels(parts[0], label_separator) for parts in labels]
            found = read_labels(values, places, classes, counted=False)
        others = {name: at for at, name in enumerate(table.header) if name and name not in columns}
        super().__init__(
            ids=paths,
            targets=found.targets,
            class_names=found.class_names,
            splits=splits,
            columns={
                name: np.asarray([row.cells[at] for row in table.rows], dtype=object) for name, at in others.items()
            },
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        return decode_listed(self.path(index), self.ids[index])

    def path(self, index: int) -> Path:  # noqa: D102
        return self.root / self.ids[index]

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for name in self.ids:
            yield file_size(self.root / name).to_bytes(8, "little")

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for name in self.ids:
            yield file_state(self.root / name)


def _split_labels(cell: str, separator: str | None) -> str | list[str]:
    if separator is None:
        return cell
    return [label for part in cell.split(separator) if (label := part.strip())]


def _split(word: str, place: str) -> str | None:
    if not word:
        return None
    split = find_split(word)
    if split is None:
        raise UserError(f"{place}: {unknown_split(word, ', or an empty cell')}")
    return split
