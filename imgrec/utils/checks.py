"""Checks of arguments shared by callbacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from imgrec.errors import UserError, suggestion


def check_names(callback: str, names: Iterable[str], accepted: Collection[str], kind: str) -> None:
    """Raise an error if a name is not accepted.

    Args:
        callback: Name of the callback, for the message.
        names: Names to check.
        accepted: Accepted names.
        kind: Noun for such a name, for the message.

    Raises:
        UserError: If a name is not accepted.
    """
    for name in names:
        if name not in accepted:
            raise UserError(
                f"{callback}: expected {kind} from {', '.join(accepted)}, got {name!r}.{suggestion(name, accepted)}"
            )
