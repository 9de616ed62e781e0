"""File and folder names: system entries that are neither images nor classes, and one spelling for each class name."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

_SYSTEM_ENTRIES = frozenset(
    {
        "__macosx",  # resource forks in ZIP archives written by macOS
        "lost+found",  # ext2 to ext4
        "@eadir",  # Synology thumbnails
        "#recycle",
        "@recycle",
        "@recently-snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "network trash folder",
        "temporary items",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    }
)


def is_system_entry(name: str) -> bool:
    """Return True if a file or folder of this name is neither an image nor a class.

    These are hidden entries (``.DS_Store``, ``._x.png``, ``.git``) and the folders and files that operating systems and
    file servers create: ``__MACOSX``, ``lost+found``, ``@eaDir``, ``$RECYCLE.BIN``, ``System Volume Information``,
    ``Thumbs.db``, ``desktop.ini``. Upper and lower case are equal.

    >>> is_system_entry("__MACOSX"), is_system_entry("._cat.png"), is_system_entry("cat.png")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in _SYSTEM_ENTRIES


def in_system_entry(path: PurePath | str) -> bool:
    """Return True if any part of a relative path is a system entry.

    >>> in_system_entry("train/@eaDir/cat.jpg/SYNOPHOTO_THUMB_M.jpg"), in_system_entry("./train/cat.jpg")
    (True, False)
    """
    return any(is_system_entry(part) for part in PurePath(path).parts if part != "..")


def class_name(name: str) -> str:
    r"""Return the class name in Unicode normalization form C.

    macOS decomposes accented letters in file names (NFD), most other systems compose them (NFC). Both spellings of
    one name are one class.

    >>> class_name("cafe\u0301") == class_name("caf\u00e9")
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)
