"""A CSV file with a path and a label in each row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
from torch import Tensor

from imgrec.data.decode import decode_image, file_size, file_state
from imgrec.data.folder import SPLIT_FOLDERS
from imgrec.data.labels import read_labels, read_table
from imgrec.data.source import SOURCES, Source
from imgrec.errors import UserError, suggestion
from imgrec.files import locate


@SOURCES.register("csv")
class CsvTable(Source):
    """Image files that a CSV file lists, with a label each and, if wanted, the split.

    The first row names the columns. Without ``classes`` the classes are the labels that occur, sorted as numbers where
    all of them are whole numbers, else as text. A row without a word in the split column is still to be split: it
    goes with the training images. A file that is not there counts as an image that cannot be read.

    Args:
        file: the CSV file; a relative one is looked up in the current folder, then under ``IMGREC_DATA``.
        root: the folder that the paths are relative to; by default the one that the CSV file lies in.
        path_column: the column with the paths of the images.
        label_column: the column with the labels; or several columns, one a class, with 1 where an image has it and 0
            where it has not (multi-label).
        label_separator: what stands between the labels of an image, ``|`` say, where it may have several or none
            (multi-label).
        split_column: the column with ``train``, ``val`` or ``test``; by default the column ``split``, if there is one.
        classes: the accepted labels, in their order; another label is an error.
        outside_root: True if paths may lead out of ``root``: absolute ones, or with ``..``. Default: false.
        delimiter: what stands between two columns; by default a tab in a ``.tsv`` file, else a comma.

    Raises:
        UserError: a missing file, folder or column; a row without path or label; an unknown label or split, with its
            row, where the row of column names is row 1.

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
        classes: list[str] | None = None,
        delimiter: str | None = None,
        label_separator: str | None = None,
        outside_root: bool = False,
    ) -> None:
        path = locate(file, "CSV file")
        self.root = locate(root, "data folder") if root is not None else path.parent
        header, rows = _read(path, delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","))
        label_columns = [label_column] if isinstance(label_column, str) else label_column
        several = label_separator is not None or not isinstance(label_column, str)
        columns = {name: _column(header, name, path) for name in (path_column, *label_columns)}
        if split_column is None and "split" in header:
            split_column = "split"
        if split_column is not None:
            columns[split_column] = _column(header, split_column, path)
        paths: list[str] = []
        self._outside_root = outside_root
        labels: list[list[str]] = []
        splits: list[str | None] = []
        for number, row in rows:
            cells = {name: row[at].strip() if at < len(row) else "" for name, at in columns.items()}
            for name in (path_column, *([] if several else label_columns)):
                if not cells[name]:
                    raise UserError(f'{path}, row {number}: nothing in the column "{name}".')
            paths.append(self._relative(cells[path_column], f'{path}, row {number}, column "{path_column}"'))
            labels.append([cells[name] for name in label_columns])
            splits.append(_split(cells[split_column], path, number) if split_column else None)
        if not rows:
            raise UserError(f"no image at all: {path} has no row below its column names.")
        places = [f"{path}, row {number}" for number, _ in rows]
        if label_separator is not None:
            words = [[word for part in parts[0].split(label_separator) if (word := part.strip())] for parts in labels]
            found = read_labels(words, places, classes, counted=False)
        elif several:
            found = read_table(dict(zip(label_columns, zip(*labels, strict=True), strict=True)), places)
        else:
            found = read_labels([parts[0] for parts in labels], places, classes, counted=False)
        others = {name: at for at, name in enumerate(header) if name and name not in columns}
        super().__init__(
            ids=paths,
            targets=found.targets,
            class_names=found.class_names,
            splits=splits,
            columns={
                name: np.asarray([row[at].strip() if at < len(row) else "" for _, row in rows], dtype=object)
                for name, at in others.items()
            },
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        return decode_image(self.path(index), self.ids[index])

    def path(self, index: int) -> Path:  # noqa: D102
        return self.root / self.ids[index]

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for name in self.ids:
            yield file_size(self.root / name).to_bytes(8, "little")

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for name in self.ids:
            yield file_state(self.root / name)

    def _relative(self, given: str, where: str) -> str:
        """Return one spelling for a file: relative to the root if it is below it, with forward slashes."""
        path = PurePath(os.path.normpath(given))
        for root in (self.root, self.root.absolute()):
            path = path.relative_to(root) if path.is_relative_to(root) else path
        if not self._outside_root and (path.is_absolute() or ".." in path.parts):
            raise UserError(
                f"{where}: expected a path below the root {self.root}, got {given!r}. Another `root` makes it one; "
                "`outside_root: true` in the source allows any path."
            )
        return path.as_posix()


def _read(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(enumerate(csv.reader(file, delimiter=delimiter), start=1))
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; a CSV file is needed.") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read: permission denied.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except (csv.Error, TypeError) as error:
        raise UserError(f"{path} cannot be read as CSV with the delimiter {delimiter!r}: {error}.") from error
    rows = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    if not rows:
        raise UserError(f"{path} is empty; its first row names the columns.")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise UserError(
            f'{path} has no column "{name}".{suggestion(name, header)} It has: {", ".join(header)}. '
            "The arguments path_column, label_column and split_column name the columns."
        )
    return header.index(name)


def _split(word: str, path: Path, number: int) -> str | None:
    if not word:
        return None
    if word.lower() not in SPLIT_FOLDERS:
        raise UserError(
            f'{path}, row {number}: no split is called "{word}".{suggestion(word, SPLIT_FOLDERS)} '
            f"Accepted: {', '.join(SPLIT_FOLDERS)}, or nothing."
        )
    return SPLIT_FOLDERS[word.lower()]
