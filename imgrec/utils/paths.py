"""Lookup of paths, and atomic writes of files and folders.

imgrec writes files with :func:`written_aside` and :func:`folder_aside`. A test lists the exceptions.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from imgrec import trust
from imgrec.errors import UserError
from imgrec.utils.write_errors import writing


def data_root() -> Path | None:
    """Return the folder that ``IMGREC_DATA`` names, or ``None`` if it is not set."""
    value = os.environ.get("IMGREC_DATA")
    return Path(value) if value else None


def locate(path: str | Path, kind: str = "path") -> Path:
    """Return the existing path for ``path``, relative to the current folder or to ``IMGREC_DATA``.

    Args:
        path: Absolute path, or path relative to the current folder or to ``IMGREC_DATA``. ``~`` is expanded.
        kind: Noun for the message, for example ``"data folder"``. Defaults to ``"path"``.

    Raises:
        UserError: If the path exists in neither folder.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    root = data_root()
    if given.is_absolute():
        raise UserError(f"{kind} not found: {given}")
    if root is None:
        raise UserError(f"{kind} not found: {Path.cwd() / given} (nor under IMGREC_DATA, which is not set)")
    if (root / given).exists():
        return root / given
    raise UserError(f"{kind} not found: neither {Path.cwd() / given} nor {root / given} (IMGREC_DATA) exists")


def inside(folder: str | Path, name: str, where: str) -> Path:
    """Return the path of a name from received data, inside ``folder``.

    Args:
        folder: Folder that the path must not leave.
        name: Relative path.
        where: Key of the name, for the message.

    Raises:
        UserError: If the path leads out of the folder, also by a link.

    >>> inside("runs/a", "checkpoints/best.ckpt", "summary.json").as_posix()
    'runs/a/checkpoints/best.ckpt'
    """
    folder = Path(folder)
    found = folder / name
    try:
        within = found.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name with a null character, or links in a circle
        within = False
    if not within:
        raise UserError(f"{folder}: {where}: expected a path inside the folder, got {name!r}.")
    return found


def refuse_links(folder: str | Path) -> None:
    """Raise an error if a link in a received folder leads out of it, before a command writes into the folder.

    Links below ``wandb/`` are accepted because W&B replaces them and does not write through them.

    Raises:
        UntrustedError: If received data is open without full trust and there is such a link.
    """
    if trust.current() is None:
        return
    home = Path(folder).resolve()
    for place, folders, files in os.walk(home):
        for path in (Path(place) / name for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                trust.refuse_unless_trusted(f"{path}: got a link to {path.readlink()}", "it leads out of the folder")
        folders[:] = [name for name in folders if name != "wandb" or (Path(place) / name).is_symlink()]


def _refuse_redirected(path: Path) -> None:
    """Raise an error if a link leads a file of a received run folder out of that folder."""
    if trust.current() is None:
        return
    given = Path(os.path.abspath(path))  # noqa: PTH100 - links must stay links
    for folder in given.parents:
        if (folder / "config.yaml").is_file() and (folder / "environment.json").is_file():
            if not given.parent.resolve().is_relative_to(folder.resolve()):
                trust.refuse_unless_trusted(f"{given.parent}: got a link", "it leads out of the run folder")
            return


class NotRegularFileError(OSError):
    """Path of a named pipe, a device or a socket. A read could block or never end.

    Args:
        path: Path of the entry.
        kind: Kind of the entry, for example ``"a device"``.
    """

    def __init__(self, path: str | Path, kind: str) -> None:
        super().__init__(f"{path} is {kind}, not a file")
        self.kind = kind


_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: str | Path) -> None:
    """Raise an error if a path is not a regular file, without opening it. Symbolic links are followed.

    Raises:
        NotRegularFileError: If it is a named pipe, a device or a socket.
        IsADirectoryError: If it is a folder.
        OSError: If there is no such file, or if its folder cannot be read.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - a Path for each of many files takes twice as long
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder, not a file")
    raise NotRegularFileError(path, _KINDS.get(stat.S_IFMT(mode), "a special entry"))


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes. A named pipe, a device or a socket is never opened.

    Raises:
        OSError: If :func:`check_regular` raises it, or if the file cannot be opened.
    """
    check_regular(path)
    return open(path, "rb")  # noqa: PTH123 - as above


def read_regular(path: str | Path) -> bytes:
    """Return the bytes of a regular file. A named pipe, a device or a socket is never opened.

    Raises:
        OSError: If :func:`check_regular` raises it, or if the file cannot be read.
    """
    with open_regular(path) as file:
        return file.read()


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to ``path`` at the end.

    ``path`` is unchanged if an error is raised.

    Raises:
        WriteError: If ``path`` cannot be written.
    """
    _refuse_redirected(Path(path))
    with writing(path), _aside(Path(path)) as aside:
        yield aside


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp creates files that only the owner can read
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` at the end.

    ``folder`` is unchanged if an error is raised.

    Raises:
        WriteError: If ``folder`` cannot be written.
    """
    _refuse_redirected(Path(folder))
    with writing(folder), _new_folder(Path(folder)) as new:
        yield new


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
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
            file.chmod(0o666 & ~umask)  # some libraries create files that only the owner can read
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:  # the nearest first. Folders that have content are kept.
            with suppress(OSError):
                parent.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, complete or not at all. A lone surrogate becomes an escape.

    Raises:
        WriteError: If the file cannot be written.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
