"""The images that ``imgrec predict`` is given: files, folders, globs, and tables of paths."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgrec.errors import UserError

TABLES = (".csv", ".tsv")
"""Endings of tables of paths."""
PATH_COLUMNS = ("path", "file", "image")
"""Names of the column with the paths, in any case, the first that is there. Without one it is the first column."""


@dataclass(frozen=True)
class ImageRow:
    """One image to predict, and the other cells of its row if a table lists it."""

    path: Path
    cells: dict[str, str] = field(default_factory=dict)


@dataclass
class Inputs:
    """All images to predict, in order.

    Attributes:
        rows: the images. A file that is named several times outside of tables is there once.
        columns: names of the further columns of all tables.
        skipped: number of files in folders that are no images by their ending, by ending.
    """

    rows: list[ImageRow] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def skipped_text(self) -> str:
        """The skipped files in words, or an empty text.

        >>> Inputs(skipped=Counter({".txt": 2, ".npy": 1})).skipped_text
        '3 files are no images by their ending, and are skipped: .txt (2), .npy (1)'
        """
        count = self.skipped.total()
        if not count:
            return ""
        shown = [f"{ending} ({number})" for ending, number in self.skipped.most_common(5)]
        more = ["..."] if len(self.skipped) > len(shown) else []
        verb = "file is no image by its" if count == 1 else "files are no images by their"
        return f"{count} {verb} ending, and {'is' if count == 1 else 'are'} skipped: {', '.join(shown + more)}"


def find_images(words: Iterable[str]) -> Inputs:
    """Find the images that files, folders and everything below them, globs and tables of paths name.

    Raises:
        UserError: If a word names nothing, a folder holds no image, or a table cannot be read.
    """
    found = Inputs()
    seen: set[Path] = set()

    def add(paths: Iterable[Path]) -> None:
        for path in paths:
            if path not in seen:
                seen.add(path)
                found.rows.append(ImageRow(path))

    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            add(_in_folder(path, found.skipped))
        elif path.suffix.lower() in TABLES and path.is_file():
            _read_table(path, found)
        elif path.exists():
            add([path])
        else:
            names = [Path(p) for p in sorted(glob.glob(word, recursive=True)) if Path(p).is_file()]  # noqa: PTH207
            if not names:
                raise UserError(f"{word}: no such file, folder or glob with a match")
            add(names)
    return found


def _in_folder(folder: Path, skipped: Counter[str]) -> list[Path]:
    from imgrec.data.decoding.image import IMAGE_SUFFIXES
    from imgrec.data.sources.file_names import is_system_entry

    names, others = [], Counter[str]()
    for path in _files(folder):
        if is_system_entry(path.name):
            others["hidden"] += 1
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(path)
        else:
            others[path.suffix.lower() or "no ending"] += 1
    if not names:
        there = Inputs(skipped=others).skipped_text
        raise UserError(f"{folder}: no image in this folder{f' ({there})' if there else ''}")
    skipped.update(others)
    return sorted(names)


def _files(folder: Path) -> Iterator[Path]:
    """Yield all regular files below a folder, without hidden folders and folders of the system."""
    from imgrec.data.sources.file_names import is_system_entry

    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_system_entry(name)]
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _read_table(path: Path, found: Inputs) -> None:
    """Add the rows of a table to ``found``. Relative paths are relative to the folder of the table."""
    from imgrec.data.sources.csv_rows import read_csv

    table = read_csv(path, (), strip=False)
    if not table.rows:
        raise UserError(f"{path}: expected one row per image after the header, got no row.")
    lower = [name.lower() for name in table.header]
    column = next((lower.index(name) for name in PATH_COLUMNS if name in lower), 0)
    others = [name for at, name in enumerate(table.header) if at != column]
    found.columns += [name for name in others if name not in found.columns]
    for row in table.rows:
        if not row.cells[column].strip():
            raise UserError(f'{table.place(row)}: nothing in the column "{table.header[column]}".')
        cells = {
            name: cell for at, (name, cell) in enumerate(zip(table.header, row.cells, strict=True)) if at != column
        }
        found.rows.append(ImageRow(_path(path.parent, row.cells[column].strip()), cells))


def _path(folder: Path, text: str) -> Path:
    path = folder / Path(text).expanduser()
    return folder / text.replace("\\", "/") if "\\" in text and not path.exists() else path
