"""Names of splits in folders, file names, tables and mappings."""

from __future__ import annotations

from collections.abc import Iterable

from imgrec.errors import suggestion

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "devel": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
"""Accepted names of a split, in lower case, mapped to ``train``, ``val`` or ``test``. Every source uses this table."""


def find_split(name: str) -> str | None:
    """Return the split that ``name`` stands for, or None if it is not the name of a split.

    >>> find_split("Validation"), find_split("dev"), find_split("cat")
    ('val', 'val', None)
    """
    return SPLIT_NAMES.get(name.strip().lower())


def names_of(split: str) -> tuple[str, ...]:
    """Return the accepted names of a split.

    >>> names_of("test")
    ('test', 'testing')
    """
    return tuple(name for name, meaning in SPLIT_NAMES.items() if meaning == split)


def unknown_split(name: str, further: str = "") -> str:
    """Return the message for a name that is not the name of a split.

    Args:
        name: Unknown name.
        further: End of the list of accepted values, for example ``", or an empty cell"``. Defaults to none.
    """
    return f'no split is called "{name}".{suggestion(name, SPLIT_NAMES)} Accepted: {_joined(SPLIT_NAMES)}{further}.'


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)
