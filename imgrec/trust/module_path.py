"""The current folder on the module path of this process and its child processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SAFE = {"PYTHONSAFEPATH": "1"}
"""Setting that excludes the current folder from the module path of child processes (``python -c``, ``-m``)."""


@contextmanager
def current_folder_last() -> Iterator[None]:
    """Search modules in the current folder after all installed modules."""
    here = os.getcwd()  # noqa: PTH109
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Remove the current folder from the module path of this process and of child processes.

    It is kept if PYTHONPATH contains it. An empty entry of PYTHONPATH, as in ``:/my/modules``, does not count.
    """
    here = os.getcwd()  # noqa: PTH109
    given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    asked = {os.path.abspath(each) for each in given}  # noqa: PTH100
    removed = [] if here in asked else [(at, each) for at, each in enumerate(sys.path) if each in ("", here)]
    for at, _ in reversed(removed):
        del sys.path[at]
    path = {"PYTHONPATH": os.pathsep.join(given)} if "PYTHONPATH" in os.environ else {}
    changed = {**_SAFE, **path}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for at, each in removed:
            sys.path.insert(at, each)
