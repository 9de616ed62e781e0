"""From the labels that a data set holds, of any kind, to targets and class names."""

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
    """Targets and class names as a :class:`imgrec.data.Source` takes them, for the rows that have a label."""

    targets: NDArray[Any]
    class_names: list[str]
    rows: NDArray[np.int64]


def read_labels(
    values: Sequence[Any], ids: Sequence[str], class_names: Sequence[str | int] | None = None, counted: bool = True
) -> Labels:
    """One label a row, or a list of labels a row: words or whole numbers.

    With ``class_names``, a label is one of them, or, if ``counted``, a number that counts them from 0. Without, the
    classes are the labels that occur; see :func:`sort_classes`. A row whose label is missing or blank is left out of
    ``rows``. If rows have one label each, so is a row whose label is -1, the mark of labels that are kept secret. A
    list may be empty. Labels in NFC and NFD spelling are equal.

    Args:
        values: the label of each row, or the list of its labels.
        ids: what to call each row in messages.
        class_names: the names of the classes, where they are known.
        counted: whether a number may count ``class_names``, or is the name of a class and no more.

    Raises:
        UserError: a label that is no class, or neither a whole number nor a word.

    >>> read_labels(["dog", "cat", None], ["a", "b", "c"])[:2]
    (array([1, 0]), ['cat', 'dog'])
    """
    several = any(isinstance(value, list) for value in values)
    lists = [value if isinstance(value, list) else None if _is_missing(value) else [value] for value in values]
    there = {row: part for row, part in enumerate(lists) if part is not None and (several or part != [-1])}
    rows = list(there)
    words = [[_word(label, ids[row]) for label in part] for row, part in there.items()]
    names = (
        sort_classes({word for labels in words for word in labels}) if class_names is None else given_names(class_names)
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


def given_names(class_names: Sequence[str | int]) -> list[str]:
    """Return given class names as text.

    Raises:
        UserError: If one of them occurs twice.

    >>> given_names([0, 1, "other"])
    ['0', '1', 'other']
    """
    names = [class_name(str(name)) for name in class_names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'classes: the class "{twice}" occurs twice.')
    return names


def read_table(columns: Mapping[str, Sequence[Any]], ids: Sequence[str]) -> Labels:
    """One column a class, with 1 or true where a row has it, 0 or false where it has not.

    Raises:
        UserError: another value.
    """
    table = np.zeros((len(ids), len(columns)), dtype=np.float32)
    for number, (name, values) in enumerate(columns.items()):
        for row, value in enumerate(values):
            text = str(value).strip().lower()
            if text not in _YES_NO:
                raise UserError(
                    f'{ids[row]}: the column "{name}" holds {value!r}; accepted are 1 and 0, true and false.'
                )
            table[row, number] = _YES_NO[text]
    return Labels(table, list(columns), np.arange(len(ids)))


def warn_of_unlabelled(count: int, total: int, where: str) -> None:
    """Say in the log how many images were left out because they have no label.

    Raises:
        UserError: none has.
    """
    if count == total:
        raise UserError(f"{where}: none of the {total} images has a label.")
    if count:
        logger.warning("%s: %d of %d images have no label and are left out", where, count, total)


def sort_classes(found: set[str]) -> list[str]:
    """Sorted as numbers where all are whole numbers, else as text.

    >>> sort_classes({"10", "9"}), sort_classes({"10", "9", "a"})
    (['9', '10'], ['10', '9', 'a'])
    """
    if all(label.removeprefix("-").isdecimal() for label in found):
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _word(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{name}: a label is a whole number or a word, got {value!r}.")
    return class_name(str(value))
