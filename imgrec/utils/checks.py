"""What callbacks accept: checks that several of them make, with one wording."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from imgrec.errors import UserError, suggestion


def known(callback: str, words: Iterable[str], accepted: Collection[str], what: str) -> None:
    """Raise :class:`UserError` where a word is none of the accepted ones; ``what`` is how messages name one."""
    for word in words:
        if word not in accepted:
            raise UserError(
                f'{callback}: there is no {what} "{word}".{suggestion(word, accepted)} Accepted: {", ".join(accepted)}.'
            )
