"""Selection, renaming and merging of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imgrec.data.sources.base import Source, SourceView
from imgrec.data.sources.file_names import class_name
from imgrec.errors import UserError, suggestion

ClassMapping = Mapping[str | int, str | int | None] | Sequence[str | int]
"""New names by old names, or the names of the classes to keep."""

OTHERS = "*"
"""Key of a mapping for every class without an entry."""


def map_classes(source: Source, classes: ClassMapping | None, where: str = "data.classes") -> Source:
    """Return the source with selected, renamed or merged classes.

    A list keeps its classes, in its order, and leaves the images of all others out. A mapping renames classes. Two old
    names with one new name are merged. A class with the new name ``null`` is left out with its images. A class without
    an entry keeps its name. The key ``"*"`` sets one value for all of these: ``null``, or the name of one class.

    The new classes have the order of their first old class. An image with several labels is not excluded with a class.
    It has a merged class if it has any of its parts.

    Args:
        source: Table of images.
        classes: List or mapping. ``None`` returns the source unchanged.
        where: Place in the config, for messages.

    Raises:
        UserError: If the source lacks a class, or if fewer than two classes remain.

    Example:
        >>> from imgrec.data import Digits
        >>> small = map_classes(Digits(), {"0": "round", "8": "round", "1": "straight", "7": "straight", "*": None})
        >>> small.class_names, small.class_counts().tolist()
        (('round', 'straight'), [352, 361])
    """
    if classes is None:
        return source
    new_names = _new_names(source.class_names, classes, where)
    kept = list(dict.fromkeys(name for name in new_names if name is not None))
    if not isinstance(classes, Mapping):
        kept = [class_name(str(name)) for name in classes]
    if len(kept) < 2:
        raise UserError(f"{where}: expected two classes or more, got {', '.join(kept) or 'none'} of {len(new_names)}.")
    number = np.asarray([-1 if name is None else kept.index(name) for name in new_names])
    if source.multi_label:
        table = np.stack([source.targets[:, number == i].max(1) for i in range(len(kept))], axis=1)
        return SourceView(source, targets=table, class_names=kept)
    targets = number[source.targets]
    rows = np.flatnonzero(targets >= 0)
    if not len(rows):
        raise UserError(f"{where}: no image has any of the classes {', '.join(kept)}.")
    return SourceView(source, rows, targets[rows], kept)


def check_classes(classes: ClassMapping | None, where: str = "data.classes") -> None:
    """Raise :class:`UserError` for a mapping that is invalid for every source."""
    if classes is None:
        return
    if isinstance(classes, str) or not isinstance(classes, Mapping | Sequence):
        raise UserError(f"{where}: expected a list of class names or a mapping of old to new names, got {classes!r}.")
    values = list(classes.values()) if isinstance(classes, Mapping) else list(classes)
    for value in [*classes, *values]:
        accepted = isinstance(value, str | int) and not isinstance(value, bool)
        if not accepted and not (value is None and isinstance(classes, Mapping)):
            raise UserError(f"{where}: expected text as class names, got {value!r}. Quote it in the YAML.")
    names = [class_name(str(value)) for value in values]
    if not isinstance(classes, Mapping) and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f'{where}: expected each class once, got "{twice}" twice.')


def _new_names(names: Sequence[str], classes: ClassMapping, where: str) -> list[str | None]:
    """Return the new name of each class, or ``None`` for a class to leave out."""
    check_classes(classes, where)
    mapping: dict[str, str | None]
    if isinstance(classes, Mapping):
        mapping = {class_name(str(old)): None if new is None else class_name(str(new)) for old, new in classes.items()}
    else:
        mapping = {class_name(str(name)): class_name(str(name)) for name in classes} | {OTHERS: None}
    for old in mapping:
        if old not in names and old != OTHERS:
            raise UserError(
                f'{where}: the data has no class "{old}".{suggestion(old, names)} It has: {", ".join(names[:20])}'
                f"{f' and {len(names) - 20} more' if len(names) > 20 else ''}."
            )
    return [mapping.get(name, mapping.get(OTHERS, name)) for name in names]
