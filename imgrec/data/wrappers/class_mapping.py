"""The classes of a data set restricted, renamed or merged by a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imgrec.data.sources.base import Source, SourceView
from imgrec.data.sources.file_names import class_name
from imgrec.errors import UserError, suggestion

ClassMapping = Mapping[str | int, str | int | None] | Sequence[str | int]
"""New names by old ones, or the names of the classes that stay."""

OTHERS = "*"
"""The key of a mapping that stands for every class it does not name."""


def map_classes(source: Source, classes: ClassMapping | None, where: str = "data.classes") -> Source:
    """The source with other classes.

    A list keeps the classes that it names, in its order, and leaves the images of the others out. A mapping gives new
    names: two old names with one new name are merged, a class whose new name is ``null`` is left out with its images,
    and one that the mapping does not name keeps its name. The key ``"*"`` stands for all of these: ``"*": null``
    leaves them out, ``"*": rest`` makes one class of them. The order of the new classes is that of the first old one
    of each. With several labels an image, a class that is left out takes no image with it, and merged classes are had
    by the images that have any of them.

    Args:
        source: the table of images.
        classes: the list or the mapping; ``None`` changes nothing.
        where: its place in the config, for messages.

    Raises:
        UserError: it names a class that the source has not, or fewer than two classes are left.

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
        raise UserError(
            f"{where}: a classification needs two classes or more; what is left of {len(new_names)}: "
            f"{', '.join(kept) or 'none'}."
        )
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
    """Raise :class:`UserError` for what can be told to be wrong without the data."""
    if classes is None:
        return
    if isinstance(classes, str) or not isinstance(classes, Mapping | Sequence):
        raise UserError(f"{where}: a list of class names, or a mapping of old names to new ones, got {classes!r}.")
    values = list(classes.values()) if isinstance(classes, Mapping) else list(classes)
    for value in [*classes, *values]:
        accepted = isinstance(value, str | int) and not isinstance(value, bool)
        if not accepted and not (value is None and isinstance(classes, Mapping)):
            raise UserError(f"{where}: the names of classes are words, got {value!r}; quote it where it is one.")
    names = [class_name(str(value)) for value in values]
    if not isinstance(classes, Mapping) and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f'{where}: the class "{twice}" stands there twice.')


def _new_names(names: Sequence[str], classes: ClassMapping, where: str) -> list[str | None]:
    """The new name of each class, or ``None`` where it is left out."""
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
