"""Callbacks and loggers, which a config names by class. ``imgrec list callbacks`` lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from typing import Any

from imgrec.engine.instantiate import find_class
from imgrec.errors import UserError, suggestion
from imgrec.utils.signature import Entry


@dataclass(frozen=True)
class ClassList:
    """Classes of one kind that a config names by ``class_path``, or by their name alone.

    Args:
        kind: Singular noun for messages.
        where: Key in the config.
        base: Dotted path of the base class.
        recommended: Names of listed classes of Lightning. A config accepts any other class, too.
        hidden: Names of classes of imgrec that the commands add themselves.
    """

    kind: str
    where: str
    base: str
    recommended: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def list_own(self) -> list[Entry[Any]]:
        """Return the classes of imgrec, sorted by name."""
        imgrec = import_module("imgrec")  # the short names of a config are its public names

        base = _import(self.base)
        found = {name: getattr(imgrec, name) for name in imgrec.__all__ if name not in self.hidden}
        return [Entry(n, c) for n, c in sorted(found.items()) if isinstance(c, type) and issubclass(c, base)]

    def list_recommended(self) -> list[Entry[Any]]:
        """Return the recommended classes of Lightning."""
        return [self.entry(name) for name in self.recommended]

    def entry(self, name: str) -> Entry[Any]:
        """Return the class of a name or a dotted path.

        Raises:
            UserError: If there is no such class.
        """
        return Entry(name, find_class(name, _import(self.base), self.where))

    def lines(self, pattern: str | None) -> Iterator[str]:
        """Yield one line per class: the name and the first sentence of its docstring.

        Args:
            pattern: Glob pattern of the names, or ``None`` for all.

        Raises:
            UserError: If no name matches.
        """
        groups = [
            [entry for entry in group if pattern is None or fnmatch(entry.name, pattern)]
            for group in (self.list_own(), self.list_recommended())
        ]
        if pattern is not None and not any(groups):
            known = [entry.name for entry in (*self.list_own(), *self.list_recommended())]
            raise UserError(f'no {self.kind} matches "{pattern}".{suggestion(pattern.strip("*"), known)}')
        width = max(len(entry.name) for group in groups for entry in group)
        for title, group in zip(("", "of Lightning:"), groups, strict=True):
            if group and title and pattern is None:
                yield ""
                yield title
            for entry in group:
                yield f"{entry.name:<{width}}  {_sentence(entry.doc)}"
        if pattern is None:
            yield ""
            yield f"{self.where} accepts any other class of Lightning by its name, and any class by its dotted path"


CLASS_LISTS: dict[str, ClassList] = {
    "callbacks": ClassList(
        kind="callback",
        where="trainer.callbacks",
        base="pytorch_lightning.Callback",
        recommended=(
            "DeviceStatsMonitor",
            "GradientAccumulationScheduler",
            "LearningRateMonitor",
            "ModelCheckpoint",
            "ModelSummary",
        ),
        hidden=("Callback", "RunRecorder"),
    ),
    "loggers": ClassList(
        kind="logger",
        where="trainer.logger",
        base="pytorch_lightning.loggers.Logger",
        recommended=("CSVLogger", "MLFlowLogger", "TensorBoardLogger"),
    ),
}


def _sentence(doc: str) -> str:
    """Return the first sentence on one line."""
    return " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".") + "."


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
