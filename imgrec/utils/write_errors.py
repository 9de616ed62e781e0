"""Failures to write a file or folder, with the path and the reason."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgrec.errors import ResourceError, UserError


class WriteError(ResourceError, OSError):
    """Failed write of a file or folder: a full or read-only disk, no permission, or a deleted folder."""

    errno: int | None
    strerror: str

    def __init__(self, path: str | Path, reason: str, number: int | None = None, hint: str = "") -> None:
        super().__init__(f"{path}: cannot be written ({reason}).{hint}")
        self.errno, self.strerror = number, reason

    def __str__(self) -> str:
        return str(self.args[0])  # OSError prints the number without the path


_SYSTEM = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
"""Pattern of the number of a system error in messages of Rust and C++ libraries."""

_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENXIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ESTALE),
)
_FULL = {errno.ENOSPC: " Free some space, and repeat the command.", errno.EDQUOT: " Free some space of your quota."}


def write_error(path: str | Path, error: BaseException) -> WriteError | None:
    """Return the error to raise if ``error`` is a failure to write ``path``, otherwise ``None``.

    Args:
        path: File or folder that was being written.
        error: Exception raised during the write. An ``OSError`` about an unrelated file is not a failure to write.
    """
    if isinstance(error, UserError):
        return error if isinstance(error, WriteError) else None
    number = _number(error)
    named = getattr(error, "filename", None)
    if number not in _UNWRITABLE or (isinstance(named, str) and not _concerns(Path(path), Path(named))):
        return None
    return WriteError(path, os.strerror(number), number, _FULL.get(number, ""))


def _number(error: BaseException) -> int | None:
    """Return the number of the system error that ``error`` reports."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := _SYSTEM.search(str(error)):
        return int(found[1])
    return next((each for each in _FULL if os.strerror(each) in str(error)), None)


def _concerns(path: Path, named: Path) -> bool:
    """Return True if ``named`` is ``path``, inside it, one of its parents, or its temporary file."""
    path, named = path.absolute(), named.absolute()
    below = named.relative_to(path.parent).parts[:1] if named.is_relative_to(path.parent) else ()
    return named in path.parents or bool(below and (below[0] == path.name or below[0].startswith(f".{path.name}.")))


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into a :class:`WriteError`."""
    try:
        yield
    except Exception as error:
        found = write_error(path, error)
        if found is None or found is error:
            raise
        raise found from error


class Postponed:
    """Failures to write that are raised after the results were printed.

    >>> postponed = Postponed()
    >>> with postponed:
    ...     raise WriteError("a.csv", "No space left on device")
    >>> postponed.error is None
    False
    """

    def __init__(self) -> None:
        self.error: ResourceError | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ResourceError):
            return False
        self.error = self.error or error
        return True

    def raise_first(self) -> None:
        """Raise the first failure, if there was one."""
        if self.error is not None:
            raise self.error
