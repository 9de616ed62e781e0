"""Where given paths are looked up, and files that are whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgrec.errors import UserError


def data_root() -> Path | None:
    """The folder that ``IMGREC_DATA`` names, or ``None`` where it is not set."""
    value = os.environ.get("IMGREC_DATA")
    return Path(value) if value else None


def locate(path: str | Path, what: str = "path") -> Path:
    """The existing path that ``path`` means: as it stands, else under ``IMGREC_DATA``.

    Args:
        path: absolute, or relative to the current folder or to ``IMGREC_DATA``; ``~`` is expanded.
        what: what is looked for, for the message: ``"data folder"``.

    Raises:
        UserError: it is in neither place; the message names both.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    root = data_root()
    if given.is_absolute():
        raise UserError(f"{what} not found: {given}")
    if root is None:
        raise UserError(f"{what} not found: {Path.cwd() / given} (nor under IMGREC_DATA, which is not set)")
    if (root / given).exists():
        return root / given
    raise UserError(f"{what} not found: neither {Path.cwd() / given} nor {root / given} (IMGREC_DATA) exists")


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to ``path`` at the end; on an error ``path`` stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp's files are the owner's alone
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place at the end; on an error ``folder`` stays as it was."""
    folder = Path(folder)
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        umask = os.umask(0)
        os.umask(umask)
        for file in new.iterdir():
            file.chmod(0o666 & ~umask)  # some libraries' files are the owner's alone
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:  # the nearest first; what has come to hold something stays
            with suppress(OSError):
                parent.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
