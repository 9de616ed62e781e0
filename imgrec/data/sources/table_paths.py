"""Image paths in tables: one spelling for each file, and messages that contain the path that was tried."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path, PurePath

from torch import Tensor

from imgrec.data.decoding.image import BadImage, decode_image
from imgrec.errors import UserError

_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def portable_path(name: str, root: Path, place: str, outside_root: bool = True) -> str:
    r"""Return a path of a table in one spelling: normalized, with forward slashes, relative to ``root`` if below it.

    On systems whose separator is ``/``, backslashes are accepted as separators, unless there is a file whose name
    contains them.

    Args:
        name: Path in the table.
        root: Folder of relative paths.
        place: File and line, for messages.
        outside_root: True if the path may lead out of ``root``. Defaults to True.

    Raises:
        UserError: If it leads out of ``root`` although it may not, or if it is an absolute Windows path
            (``C:\images\x.png``) on another system.

    >>> portable_path("./cats\\a.png", Path("images"), "labels.csv, line 2")
    'cats/a.png'
    """
    if os.sep == "/" and ("\\" in name or _DRIVE.match(name)):
        if _DRIVE.match(name) or name.startswith("\\\\"):
            raise UserError(
                f'{place}: "{name}" is an absolute Windows path, which does not exist on this system. Use paths '
                "relative to the file's folder, or name another folder with `root`."
            )
        if not os.path.lexists(root / name):
            name = name.replace("\\", "/")
    path = PurePath(os.path.normpath(name))
    for folder in (root, root.absolute()):
        path = path.relative_to(folder) if path.is_relative_to(folder) else path
    if not outside_root and (path.is_absolute() or ".." in path.parts):
        raise UserError(
            f"{place}: expected a path below the root {root}, got {name!r}. Set another `root`, or "
            "`outside_root: true` in the source to allow any path."
        )
    return path.as_posix()


def decode_listed(path: Path, name: str | None = None) -> Tensor:
    """Decode an image file that a table lists (see :func:`imgrec.data.decoding.image.decode_image`).

    Args:
        path: Path of the file.
        name: Id of the image for the log. Defaults to the path.

    Raises:
        BadImage: If it cannot be read. If there is no such file, the reason contains the path and a similar name.
    """
    try:
        return decode_image(path, name)
    except BadImage as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadImage(f"there is no such file: {path}{_hint(path)}") from error
        raise


def _hint(path: Path) -> str:
    folder, wanted, what = path.parent, path.name, ""
    while not folder.is_dir() and folder != folder.parent:
        folder, wanted = folder.parent, folder.name
        what = f" ({folder} has no folder {wanted})"
    near = _names(folder).get(_key(wanted)) or _names(folder).get(_key(PurePath(wanted).stem))
    return f"{what}. Did you mean {near}?" if near else what


@lru_cache(maxsize=8)
def _names(folder: Path) -> dict[str, str]:
    """Return the names in a folder by themselves and without their ending, in lower case and NFC."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except OSError:
        return {}
    return {_key(PurePath(name).stem): name for name in names} | {_key(name): name for name in names}


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
