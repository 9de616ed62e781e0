"""The one exception that stands for a mistake in what was given: a config, a folder, an image, a checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot be used.

    The command line prints the message alone, without a traceback, and exits with status 2. From Python it is an
    ordinary ``ValueError``. A message names the place, what was given, and what would have been accepted.
    """

    status = 2
    """The exit status of a command that ends with it."""


class SpecError(UserError):
    """A spec names something unknown, or gives an argument that is unknown, missing or of the wrong type."""


class TrainingFailedError(UserError):
    """A training that was asked for rightly came to nothing: its loss is no number any more, or diverges."""

    status = 3


class IncompleteError(UserError):
    """A command finished, but some of its inputs could not be used; their results are missing."""

    status = 4


class BudgetExceededError(UserError):
    """A command finished, but its result exceeds a requested budget, for example ``--max-drop``."""

    status = 5


class ResourceError(UserError):
    """A resource of the machine failed: a full or read-only disk, a killed worker process or rank, a deleted folder."""

    status = 6


def nearest(word: object, words: Iterable[str], at_most: int = 3) -> list[str]:
    """Return the accepted words most similar to ``word``, best first; empty if none is similar.

    >>> nearest("cros_entropy", ["focal", "cross_entropy"])
    ['cross_entropy']
    """
    by_lower = {w.lower(): w for w in words}
    matches = difflib.get_close_matches(str(word).lower(), by_lower, n=at_most, cutoff=0.5)
    return [by_lower[m] for m in matches]


def suggestion(word: object, words: Iterable[str]) -> str:
    """Return `` Did you mean "x"?`` for the nearest accepted words, or an empty string.

    >>> suggestion("focl", ["focal"])
    ' Did you mean "focal"?'
    """
    found = " or ".join(f'"{w}"' for w in nearest(word, words))
    return f" Did you mean {found}?" if found else ""


def article(noun: str) -> str:
    """The noun with ``a`` or ``an`` before it.

    >>> article("loss"), article("optimizer")
    ('a loss', 'an optimizer')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
