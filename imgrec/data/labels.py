"""Conversion of the labels of a data set to targets and class names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.file_names import class_name
from imgrec.errors import UserError, suggestion

logger = logging.getLogger(__name__)

ClassNames = list[str | int]
"""Names of classes, in their order. A number is the class whose name is its digits."""

_YES_NO = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}


class Labels(NamedTuple):
    """Targets and class names of the rows that have a label, as arguments of :class:`imgrec.data.Source`."""

    targets: NDArray[Any]
    class_names: list[str]
    rows: NDArray[np.int64]


def read_labels(
    values: Sequence[Any], ids: Sequence[str], class_names: Sequence[str | int] | None = None, counted: bool = True
) -> Labels:
    """Read one label per row, or a list of labels per row: text or whole numbers.

    With ``class_names``, a label is one of them, or, if ``counted``, an index into them. Without, the classes are the
    labels that occur (see :func:`sort_classes`). Rows with a missing or blank label are not in ``rows``. If rows have
    one label each, rows with the label -1, which marks hidden labels, are excluded too. A list may be empty. Labels in
    NFC and NFD spelling are equal.

    Args:
        values: Label of each row, or list of its labels.
        ids: Name of each row in messages.
        class_names: Names of the classes. Defaults to the labels that occur.
        counted: True if a number may be an index into ``class_names``. Otherwise it is the name of a class. Defaults to
            True.

    Raises:
        UserError: If a label is no class, or neither a whole number nor text.

    >>> read_labels(["dog", "cat", None], ["a", "b", "c"])[:2]
    (array([1, 0]), ['cat', 'dog'])
    """
    several = any(isinstance(value, list) for value in values)
    lists = [value if isinstance(value, list) else None if _is_missing(value) else [value] for value in values]
    there = {row: part for row, part in enumerate(lists) if part is not None and (several or part != [-1])}
    rows = list(there)
    words = [[_word(label, ids[row]) for label in part] for row, part in there.items()]
    names = (
        sort_classes({word for labels in words for word in labels})
        if class_names is None
        else parse_class_names(class_names)
    )
    numbers = {name: number for number, name in enumerate(names)}
    if class_names is not None and counted:
        numbers = {str(number): number for number in range(len(names))} | numbers
    targets = np.zeros((len(rows) if several else 0, len(names)), dtype=np.float32)
    first = np.zeros(len(rows), dtype=np.int64)
    for place, (row, labels) in enumerate(zip(rows, words, strict=True)):
        for word in labels:
            if word not in numbers:
                listed = f"{', '.join(names[:20])}{' and more' if len(names) > 20 else ''}"
                raise UserError(
                    f'{ids[row]}: the label "{word}" is no class.{suggestion(word, names)} Accepted: {listed}.'
                )
            first[place] = numbers[word]
            if several:
                targets[place, numbers[word]] = 1
    return Labels(targets if several else first, names, np.asarray(rows, dtype=np.int64))


def parse_class_names(class_names: Sequence[str | int]) -> list[str]:
    """Return given class names as text.

    Raises:
        UserError: If one of them occurs twice.

    >>> parse_class_names([0, 1, "other"])
    ['0', '1', 'other']
    """
    names = [class_name(str(name)) for name in class_names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'classes: the class "{twice}" occurs twice.')
    return names


def read_table(columns: Mapping[str, Sequence[Any]], ids: Sequence[str]) -> Labels:
    """Read one column per class, which contains 1 or true for images of the class, otherwise 0 or false.

    Raises:
        UserError: If a value is another one.
    """
    table = np.zeros((len(ids), len(columns)), dtype=np.float32)
    for number, (name, values) in enumerate(columns.items()):
        for row, value in enumerate(values):
            text = str(value).strip().lower()
            if text not in _YES_NO:
                raise UserError(f'{ids[row]}: column "{name}": expected 1, 0, true or false, got {value!r}.')
            table[row, number] = _YES_NO[text]
    return Labels(table, list(columns), np.arange(len(ids)))


def warn_of_unlabelled(count: int, total: int, where: str) -> None:
    """Log the number of images that are excluded because they have no label.

    Raises:
        UserError: If no image has a label.
    """
    if count == total:
        raise UserError(f"{where}: none of the {total} images has a label.")
    if count:
        logger.warning("%s: %d of %d images have no label and are left out", where, count, total)


def sort_classes(labels: set[str]) -> list[str]:
    """Sort labels as numbers if all are whole numbers, otherwise as text.

    >>> sort_classes({"10", "9"}), sort_classes({"10", "9", "a"})
    (['9', '10'], ['10', '9', 'a'])
    """
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _word(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{name}: expected a whole number or text as label, got {value!r}.")
    return class_name(str(value))
