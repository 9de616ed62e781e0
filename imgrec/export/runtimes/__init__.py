"""Runtimes that execute a network. Each module other than ``base`` and ``registry`` registers its runtimes.

To add a runtime, add a module with a registered subclass of :class:`Runtime` to this folder. A class of another package
is found by an entry point of the group ``imgrec.runtimes``.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from imgrec.export.runtimes.base import RUNTIMES, OpenOptions, Runtime

__all__ = ["RUNTIMES", "OpenOptions", "Runtime"]

for _module in iter_modules(__path__):
    if _module.name != "registry":
        import_module(f"{__name__}.{_module.name}")
