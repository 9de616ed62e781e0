"""Trust file of the user: classes and modules that received data can always name."""

from __future__ import annotations

import os
from pathlib import Path

from imgrec.errors import UserError


def trust_file() -> Path:
    """Return the path of the trust file, ``$XDG_CONFIG_HOME/imgrec/trust`` or ``~/.config/imgrec/trust``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "imgrec" / "trust"


def trusted_modules() -> list[str]:
    """Return the classes and modules in the trust file: one per line, comments after ``#``.

    Raises:
        UserError: If the file exists and cannot be read.
    """
    path = trust_file()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]
