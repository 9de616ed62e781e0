"""Lists of images to leave out and to relabel, as an audit writes them or by hand, laid over a source."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import Source, SourceView
from imgrec.data.sources.csv_rows import CsvRow, CsvRows, read_csv
from imgrec.data.sources.file_names import class_name
from imgrec.data.splits.assign import Splits, check_splits
from imgrec.errors import UserError, suggestion
from imgrec.utils.csv_files import restored
from imgrec.utils.paths import locate

logger = logging.getLogger(__name__)

EXCLUDE = "exclude"
"""The action of a row whose image is to be left out."""

RELABEL = "relabel:"
"""What the action of a row begins with whose image has another class; the name of the class follows."""


def read_exclusions(file: str | Path, where: str = "data.exclude") -> list[str]:
    """The ids that a CSV file leaves out.

    The file has a column ``id``. Where it has a column ``action`` too, as the list of an audit has, the rows count
    whose action is ``exclude``; else all rows do.

    Args:
        file: looked up in the current folder, then under ``IMGREC_DATA``.
        where: the place in the config, for messages.

    Raises:
        UserError: If the file is missing, is no CSV file or has no column ``id``, or if a row has no id or an unknown
            action. The message names the line.
    """
    table = _read(file, where)
    at = table.column("id")
    rows = table.rows
    if "action" in table.header:
        rows = [row for row in rows if _action(table, row, where) == EXCLUDE]
    return list(dict.fromkeys(_id(table, row, at, where) for row in rows))


def read_labels(file: str | Path, where: str = "data.relabel") -> dict[str, str]:
    """The new class of each id that a CSV file relabels.

    The file has a column ``id``, and a column ``label`` with the name of the class, or, as the list of an audit, a
    column ``action``, of which the rows count that say ``relabel: <class>``.

    Raises:
        UserError: If the file is missing or is no CSV file, if a column is missing, if a row has no id, no new class
            or an unknown action, or if one id has two new classes. The message names the line.
    """
    table = _read(file, where)
    if "label" not in table.header and "action" not in table.header:
        given = ", ".join(table.header)
        raise UserError(f'{where}: {file} needs a column "label" or a column "action"; it has: {given}.')
    at = table.column("id")
    labels: dict[str, str] = {}
    for row in table.rows:
        label = _new_label(table, row, where)
        if label is None:
            continue
        name = _id(table, row, at, where)
        if labels.setdefault(name, label) != label:
            raise UserError(f'{where}: {table.place(row)} gives "{name}" a second class: {labels[name]} and {label}.')
    return labels


def _new_label(table: CsvRows, row: CsvRow, where: str) -> str | None:
    """Return the new class of a row, or None for a row whose action is not to relabel."""
    if "label" in table.header:
        label = row.cells[table.column("label")].strip()
    else:
        action = _action(table, row, where)
        if not action.startswith(RELABEL):
            return None
        label = action.removeprefix(RELABEL).strip()
    if not label:
        raise UserError(f"{where}: {table.place(row)}: the new class is empty. Remove the row, or name a class.")
    return class_name(label)


def _action(table: CsvRows, row: CsvRow, where: str) -> str:
    action = row.cells[table.column("action")].strip()
    if action and action != EXCLUDE and not action.startswith(RELABEL):
        raise UserError(
            f'{where}: {table.place(row)}: there is no action "{action}".{suggestion(action, [EXCLUDE, RELABEL])} '
            f'Accepted: "{EXCLUDE}", "{RELABEL} <class>", or an empty cell.'
        )
    return action


def _id(table: CsvRows, row: CsvRow, at: int, where: str) -> str:
    if not row.cells[at]:
        raise UserError(f'{where}: {table.place(row)}: nothing in the column "id".')
    name = row.cells[at]
    return restored(name) if "action" in table.header else name  # the audit neutralizes what a spreadsheet would run


def apply_corrections(
    source: Source, splits: Splits, excluded: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> tuple[Source, Splits]:
    """The source with new labels, and its splits without what is left out; every other image stays in its split.

    Ids that the source has not are a warning with their count: a list may be older than the folder.

    Args:
        source: the table of images.
        splits: its splits, with the old labels.
        excluded: the ids to leave out, as :func:`read_exclusions` gives them.
        labels: new classes by id, as :func:`read_labels` gives them.

    Raises:
        UserError: the source has none of these ids, has no such class, or its images have several labels each; or a
            class has no image left for training or for validation.
    """
    if labels:
        source = relabelled(source, labels, "data.relabel")
    if excluded:
        left_out = _rows(source, excluded, "data.exclude")
        splits = Splits(*(rows[~np.isin(rows, left_out)] for rows in (splits.train, splits.val, splits.test)))
    try:
        check_splits(source, splits)
    except UserError as error:
        what = " and ".join(["data.exclude"] * bool(excluded) + ["data.relabel"] * bool(labels))
        raise UserError(f"{what}: after this there is {error}") from error
    return source, splits


def relabelled(source: Source, labels: Mapping[str, str], where: str = "data.relabel") -> Source:
    """Return the source with new classes of some images.

    Args:
        source: the table of images.
        labels: new classes by id, as :func:`read_labels` returns them.
        where: the place in the config, for messages.

    Raises:
        UserError: If the source has none of these ids, has no such class, or has several labels per image.
    """
    if source.multi_label:
        raise UserError(f"{where}: one new class an image is for single-label data; these images have several labels.")
    numbers = {name: number for number, name in enumerate(source.class_names)}
    for label in labels.values():
        if label not in numbers:
            raise UserError(
                f'{where}: the data has no class "{label}".{suggestion(label, numbers)} '
                f"It has: {', '.join(source.class_names[:20])}."
            )
    targets: NDArray[np.int64] = source.targets.copy()
    for row in _rows(source, list(labels), where):
        targets[row] = numbers[labels[source.ids[row]]]
    return SourceView(source, targets=targets)


def _rows(source: Source, ids: Sequence[str], where: str) -> list[int]:
    row_of = {name: row for row, name in enumerate(source.ids)}
    unknown = [name for name in ids if name not in row_of]
    if unknown and len(unknown) == len(ids):
        raise UserError(f'{where}: the data has none of these {len(ids)} images; the first one: "{unknown[0]}".')
    if unknown:
        logger.warning(
            '%s: %d of %d images are not in the data; the first: "%s"', where, len(unknown), len(ids), unknown[0]
        )
    return [row_of[name] for name in ids if name in row_of]


def _read(file: str | Path, where: str) -> CsvRows:
    path = locate(file, f"{where}: CSV file")
    try:
        table = read_csv(path, ["id"], strip=False)
        table.column("id")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return table
