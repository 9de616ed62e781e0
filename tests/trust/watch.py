"""An audit hook that records what a call imports, executes, connects to and changes on the disk."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

INSTALLED = frozenset({*sys.stdlib_module_names, *packages_distributions(), "imgrec", "tests"})
SIDE_EFFECTS = frozenset({"antigravity", "this", "idlelib", "turtledemo", "evilmod"})
EXECUTED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pty.spawn",
    "pickle.find_class",
)
CONNECTED = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "socket.sendto")
CHANGED = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """The forbidden events of a block.

    Args:
        writable: folders in which files may be written.
        sources: folders whose code must not run.
    """

    writable: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = {each.ident for each in threading.enumerate()} - {threading.get_ident()}

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record a forbidden event, except in threads of earlier tests."""
        if threading.get_ident() in self._before:
            return
        if event == "subprocess.Popen" and list(arguments[1])[:1] == ["git"] and "rev-parse" in arguments[1]:
            return  # the commit in environment.json: it runs nothing that the repository configures
        if event == "import":
            top = str(arguments[0]).partition(".")[0]
            if top in SIDE_EFFECTS or top not in INSTALLED:
                self.events.append(f"import {arguments[0]}")
        elif event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            if any(Path(file).is_relative_to(each) for each in self.sources if file.startswith("/")):
                self.events.append(f"exec {file}")
        elif event.startswith((*EXECUTED, *CONNECTED)):
            self.events.append(f"{event} {arguments!r:.100}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and set(mode) & set("wax+")
            creates = isinstance(flags, int) and flags & WRITING
            if isinstance(path, str | os.PathLike) and (writes or creates):
                self._changed("open", path)
        elif event in CHANGED:
            self._changed(event, arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0])

    def _changed(self, event: str, path: Any) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike):
            return
        found = os.path.realpath(path)
        if "__pycache__" in found and not any(Path(found).is_relative_to(each) for each in self.sources):
            return  # the first import of an installed module
        allowed = (*self.writable, Path("/dev"), Path("/proc"))
        if not any(Path(found).is_relative_to(os.path.realpath(each)) for each in allowed):
            self.events.append(f"{event} {found}")


_watching: list[Watch] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching:
        watch = _watching.pop()  # what the check itself does is not recorded
        try:
            watch.see(event, arguments)
        finally:
            _watching.append(watch)


sys.addaudithook(_hook)


@contextmanager
def watched(*writable: Path, sources: tuple[Path, ...] = ()) -> Iterator[Watch]:
    """Record the forbidden events of a ``with`` block. Temporary folders and the cache of imgrec are writable."""
    places = [Path(tempfile.gettempdir()) / "nothing", *writable]
    if cache := os.environ.get("IMGREC_CACHE"):
        places.append(Path(cache))
    watch = Watch(tuple(places), sources)
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)
