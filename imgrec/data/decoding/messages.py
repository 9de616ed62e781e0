"""Warnings and errors that image decoders report about a file, collected for each thread instead of printed."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import Image

from imgrec.utils.terminal import print

logger = logging.getLogger(__name__)

_LONGEST = 500  # characters of one message
_MOST = 20  # messages of one image


class _Collector(threading.local):
    messages: list[str] | None = None
    warning = ""

    def add(self, text: str) -> bool:
        if self.messages is None:
            return False
        if len(self.messages) < _MOST and text not in self.messages:
            self.messages.append(text)
        return True


_collector = _Collector()


@contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collect the messages of decoders in this thread. In nested blocks, the outermost list receives them.

    Pillow reports damaged metadata with :mod:`warnings`. libtiff writes damaged pixel data to the standard error of the
    process. Other threads are not affected, so that several of them can decode at the same time.
    """
    outer = _collector.messages
    _install_filters()
    found: list[str] = [] if outer is None else outer
    _collector.messages = found
    try:
        yield found
    finally:
        _collector.messages = outer


def is_collected() -> bool:
    """Return True if a :func:`decoder_messages` block is active in this thread."""
    return _collector.messages is not None


class DamagedImages:
    """Counter of images with messages of their decoder. It logs the 1st, the 10th, the 100th of them, and so on."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._lock = threading.Lock()

    def add(self, name: str, messages: list[str]) -> None:
        """Count an image, once.

        Args:
            name: Id of the image.
            messages: Messages of its decoder, empty for an intact image.
        """
        if not messages:
            return
        with self._lock:
            known = name in self.ids
            self.ids.add(name)
            count = len(self.ids)
        if not known and str(count).strip("0") == "1":
            total = "" if count == 1 else f", {count:,} such images so far"
            logger.warning("image decoded, but its file is damaged: %s (%s)%s", name, messages[0], total)


damaged_images = DamagedImages()
"""The images of this process, for its log."""


class _Text:
    """A pattern for the list of warning filters, which matches any text while this thread collects messages.

    :class:`warnings.catch_warnings` replaces the filters of the whole process and is not safe with threads. A filter
    that stays in the list is.
    """

    def match(self, text: str) -> bool:
        """Return True if this thread collects messages."""
        _collector.warning = text
        return _collector.messages is not None


class _Module:
    """A pattern that matches the modules of Pillow, and collects the text that :class:`_Text` matched."""

    def match(self, module: str) -> bool:
        """Return True if the warning is Pillow's."""
        return module.partition(".")[0] == "PIL" and _collector.add(_collector.warning)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING or not _collector.add(record.getMessage())


logging.getLogger("PIL.TiffImagePlugin").addFilter(_is_shown)

_FILTERS: tuple[Any, ...] = (
    ("ignore", _Text(), Image.DecompressionBombWarning, None, 0),  # imgrec has its own limit
    ("ignore", _Text(), Warning, _Module(), 0),
)


def _install_filters() -> None:
    """Put the filters first again if another part of the process has replaced the list."""
    present: Any = warnings.filters
    if tuple(present[: len(_FILTERS)]) != _FILTERS:
        for each in _FILTERS:
            if each in present:
                present.remove(each)
        present[:0] = _FILTERS


@cache
def collect_libtiff() -> Any:
    """Send the error messages of Pillow's libtiff to the collector of the thread that decodes.

    A message outside of a :func:`decoder_messages` block is written to ``sys.stderr``, as before. The handler is set
    once in a process. Nothing changes if Pillow's libtiff is not a shared library, as on Windows.

    Returns:
        The handler, which must stay alive, or ``None``.
    """
    try:
        from PIL import _imaging

        library = ctypes.CDLL(_imaging.__file__)  # looks up symbols in the libraries that it is linked with, too
        set_handler = library.TIFFSetErrorHandler
        vsnprintf = ctypes.CDLL(None).vsnprintf
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def report(module: bytes | None, form: bytes, values: int) -> None:
        buffer = ctypes.create_string_buffer(_LONGEST)
        vsnprintf(buffer, _LONGEST, form, values)
        text = b": ".join(part for part in (module, buffer.value) if part).decode("utf-8", "replace").strip()
        if not _collector.add(text):
            print(text, file=sys.stderr)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(report)
    set_handler.argtypes = [ctypes.c_void_p]
    set_handler.restype = ctypes.c_void_p
    set_handler(ctypes.cast(handler, ctypes.c_void_p))
    return handler
