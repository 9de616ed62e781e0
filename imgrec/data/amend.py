"""Lists of images to leave out and to relabel, as an audit writes them or by hand, laid over a source."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.csv_files import restored
from imgrec.data.source import Source
from imgrec.data.splits import Splits, check_splits
from imgrec.data.view import View
from imgrec.errors import UserError, suggestion
from imgrec.files import locate

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
        UserError: there is no such file, or it has no column ``id``.
    """
    header, rows = _read(file, where)
    if "action" in header:
        rows = [row for row in rows if row["action"] == EXCLUDE]
    return list(dict.fromkeys(row["id"] for row in rows))


def read_labels(file: str | Path, where: str = "data.relabel") -> dict[str, str]:
    """The new class of each id that a CSV file relabels.

    The file has a column ``id``, and a column ``label`` with the name of the class, or, as the list of an audit, a
    column ``action``, of which the rows count that say ``relabel: <class>``.

    Raises:
        UserError: there is no such file, a column is missing, or one id has two new classes.
    """
    header, rows = _read(file, where)
    if "label" not in header and "action" not in header:
        raise UserError(f'{where}: {file} needs a column "label" or a column "action"; it has: {", ".join(header)}.')
    labels: dict[str, str] = {}
    for row in rows:
        action = row.get("action", "")
        label = row["label"] if "label" in row else action.removeprefix(RELABEL).strip()
        if not label or ("label" not in row and not action.startswith(RELABEL)):
            continue
        if labels.setdefault(row["id"], label) != label:
            raise UserError(f'{where}: {file} gives "{row["id"]}" two classes: {labels[row["id"]]} and {label}.')
    return labels


def amend(
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
    return View(source, targets=targets)


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


def _read(file: str | Path, where: str) -> tuple[list[str], list[dict[str, str]]]:
    path = locate(file, f"{where}: CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [{n: (row[n] or "") if n == "id" else (row[n] or "").strip() for n in header} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: {path} cannot be read as CSV: {error}.") from error
    if "id" not in header:
        raise UserError(
            f'{where}: {path} has no column "id".{suggestion("id", header)} It has: {", ".join(header) or "nothing"}.'
        )
    if "action" in header:  # written by the audit, which neutralises what a spreadsheet would run
        rows = [row | {"id": restored(row["id"])} for row in rows]
    return header, [row for row in rows if row["id"]]
