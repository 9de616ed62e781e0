"""File formats of exported networks. Each module other than ``base`` and ``registry`` registers one format.

To add a format, add a module with a registered subclass of :class:`Format` to this folder. A class of another package
is found by an entry point of the group ``imgrec.formats``.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from imgrec.export.formats.base import FORMATS, Format

__all__ = ["FORMATS", "Format"]

for _module in iter_modules(__path__):
    if _module.name != "registry":
        import_module(f"{__name__}.{_module.name}")
