"""Collect the stable interface of imgrec: ``python -m tests.interface.collect`` prints it as JSON.

Add new names to interface.json with ``python -m tests.interface.collect > tests/interface/interface.json``.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from typing import Any

import imgrec
import imgrec.callbacks
from imgrec import errors
from imgrec.cli.commands.list_show import REGISTRIES, registry
from imgrec.cli.main import COMMANDS, main
from imgrec.engine.resolve import PARTS, TOP_LEVEL
from imgrec.utils.signals import PREEMPTED

ARGUMENTS = ("ClassificationTask", "DistillationTask", "ImageDataModule")


def collect() -> dict[str, Any]:
    """Return the stable names, arguments with defaults, flags and exit statuses."""
    return {
        "names": sorted(imgrec.__all__),
        "registries": {plural: _entries(plural) for plural in sorted(REGISTRIES)},
        "arguments": {name: _arguments(getattr(imgrec, name)) for name in ARGUMENTS},
        "callbacks": {name: _arguments(getattr(imgrec.callbacks, name)) for name in _callbacks()},
        "config": sorted([*TOP_LEVEL, *PARTS, "trainer"]),
        "commands": {command: _flags(command) for command in sorted(COMMANDS)},
        "exit statuses": {
            **{name: error.status for name, error in vars(errors).items() if hasattr(error, "status")},
            "preempted": PREEMPTED,
        },
    }


def _entries(plural: str) -> dict[str, Any]:
    return {entry.name: _arguments(entry.factory) for entry in registry(plural)}


def _callbacks() -> list[str]:
    import pytorch_lightning as pl

    names = sorted(imgrec.callbacks.__all__)
    return [
        name
        for name in names
        if inspect.isclass(found := getattr(imgrec.callbacks, name)) and issubclass(found, pl.Callback)
    ]


def _arguments(factory: Any) -> dict[str, str]:
    from imgrec.utils.signature import Entry

    return {each.name: each.default or "required" for each in Entry("", factory).arguments()}


def _flags(command: str) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", printed.getvalue())))


if __name__ == "__main__":
    print(json.dumps(collect(), indent=1, sort_keys=True))
