"""Corrections of a source: lists of images to exclude and to relabel, written by an audit or by hand."""

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
"""Action of a row whose image is excluded."""

RELABEL = "relabel:"
"""Prefix of the action of a row whose image has another class, followed by the name of the class."""


def read_exclusions(file: str | Path, where: str = "data.exclude") -> list[str]:
    """Read the ids that a CSV file excludes.

    The file has a column ``id``. With a column ``action``, as in the list of an audit, only rows with the action
    ``exclude`` are used.

    Args:
        file: CSV file, in the current folder or under ``IMGREC_DATA``.
        where: Place in the config, for messages.

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


def read_relabelling(file: str | Path, where: str = "data.relabel") -> dict[str, str]:
    """Read the new class of each id that a CSV file relabels.

    The file has a column ``id``, and a column ``label`` with the name of the class. With a column ``action`` instead,
    as in the list of an audit, only rows with the action ``relabel: <class>`` are used.

    Raises:
        UserError: If the file or a column is missing, or if a row is invalid. If an id has two new classes. The message
            contains the line.
    """
    table = _read(file, where)
    if "label" not in table.header and "action" not in table.header:
        given = ", ".join(table.header)
        raise UserError(f'{where}: {file}: expected a column "label" or "action", got {given}.')
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
    return restored(name) if "action" in table.header else name  # the audit escapes formulas of spreadsheets


def apply_corrections(
    source: Source, splits: Splits, excluded: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> tuple[Source, Splits]:
    """Return the source with new labels, and its splits without excluded images.

    Ids that the source lacks are logged with their count, because a list can be older than the data.

    Args:
        source: Table of images.
        splits: Splits of the source by the old labels.
        excluded: Ids to exclude.
        labels: New classes by id.

    Raises:
        UserError: If the source lacks all of the ids or a class, or if images have several labels. If a class has no
            remaining image for training or validation.
    """
    if labels:
        source = relabelled(source, labels, "data.relabel")
    if excluded:
        left_out = _rows(source, excluded, "data.exclude")
        splits = Splits(*(rows[~np.isin(rows, left_out)] for rows in (splits.train, splits.val, splits.test)))
    try:
        check_splits(source, splits)
    except UserError as error:
        corrections = " and ".join(["data.exclude"] * bool(excluded) + ["data.relabel"] * bool(labels))
        raise UserError(f"{corrections}: after this there is {error}") from error
    return source, splits


def relabelled(source: Source, labels: Mapping[str, str], where: str = "data.relabel") -> Source:
    """Return the source with new classes of some images.

    Args:
        source: the table of images.
        labels: new classes by id, as :func:`read_relabelling` returns them.
        where: the place in the config, for messages.

    Raises:
        UserError: If the source has none of these ids, has no such class, or has several labels per image.
    """
    if source.multi_label:
        raise UserError(f"{where}: expected a source with one label per image, got several.")
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
        raise UserError(f'{where}: the data has none of these {len(ids)} images, such as "{unknown[0]}".')
    if unknown:
        logger.warning(
            '%s: %d of %d images are not in the data, such as "%s"', where, len(unknown), len(ids), unknown[0]
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
