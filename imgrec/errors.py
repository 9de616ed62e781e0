"""Exceptions for mistakes in the input: a config, a folder, an image or a checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Invalid input of the user.

    The command line prints the message without a traceback and exits with status 2. In Python it is a ``ValueError``.
    A message names the key, the accepted values and the given value.
    """

    status = 2
    """Exit status of a command that ends with this error."""


class SpecError(UserError):
    """Invalid spec: an unknown name, or an argument that is unknown, missing, of the wrong type or out of range."""


class TrainingFailedError(UserError):
    """Failed training with a valid config: the loss became NaN or infinite, or diverged."""

    status = 3


class IncompleteError(UserError):
    """Finished command that could not use some of its inputs. Their results are missing."""

    status = 4


class BudgetExceededError(UserError):
    """Finished command whose result exceeds a requested budget, for example ``--max-drop``."""

    status = 5


class ResourceError(UserError):
    """Failed resource of the machine: a full or read-only disk, a killed worker or rank, a deleted folder."""

    status = 6


def nearest(word: object, words: Iterable[str], at_most: int = 3) -> list[str]:
    """Return the accepted words that are most similar to ``word``, best first.

    The list is empty if no word is similar.

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
    """Return a noun with its indefinite article.

    >>> article("loss"), article("optimizer")
    ('a loss', 'an optimizer')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
