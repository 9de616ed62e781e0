"""What a YAML names by class and not by registry: callbacks and loggers. ``imgrec list callbacks`` lists them."""

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
        kind: what one of them is called.
        where: where they stand in a config.
        base: the dotted path of their base class.
        lightnings: those of Lightning that go well with imgrec; any other can be named, too.
        left_out: those of imgrec's that the command itself brings.
    """

    kind: str
    where: str
    base: str
    lightnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def own(self) -> list[Entry[Any]]:
        """Those of imgrec, by name."""
        imgrec = import_module("imgrec")  # the short names of a config are its public names

        base = _import(self.base)
        found = {name: getattr(imgrec, name) for name in imgrec.__all__ if name not in self.left_out}
        return [Entry(n, c) for n, c in sorted(found.items()) if isinstance(c, type) and issubclass(c, base)]

    def others(self) -> list[Entry[Any]]:
        """Those of Lightning's that are of use beside them."""
        return [self.entry(name) for name in self.lightnings]

    def entry(self, name: str) -> Entry[Any]:
        """The class of that name, or of that dotted path.

        Raises:
            UserError: there is none.
        """
        return Entry(name, find_class(name, _import(self.base), self.where))

    def lines(self, pattern: str | None) -> Iterator[str]:
        """Each with what it is, those whose names match ``pattern``.

        Raises:
            UserError: none does.
        """
        groups = [
            [entry for entry in group if pattern is None or fnmatch(entry.name, pattern)]
            for group in (self.own(), self.others())
        ]
        if pattern is not None and not any(groups):
            known = [entry.name for entry in (*self.own(), *self.others())]
            raise UserError(f'no {self.kind} matches "{pattern}".{suggestion(pattern.strip("*"), known)}')
        width = max(len(entry.name) for group in groups for entry in group)
        for said, group in zip(("", "of Lightning:"), groups, strict=True):
            if group and said and pattern is None:
                yield ""
                yield said
            for entry in group:
                yield f"{entry.name:<{width}}  {_sentence(entry.doc)}"
        if pattern is None:
            yield ""
            yield f"{self.where} takes any other of Lightning's by its name, too, and any class by its dotted path"


CLASS_LISTS: dict[str, ClassList] = {
    "callbacks": ClassList(
        kind="callback",
        where="trainer.callbacks",
        base="pytorch_lightning.Callback",
        lightnings=(
            "DeviceStatsMonitor",
            "GradientAccumulationScheduler",
            "LearningRateMonitor",
            "ModelCheckpoint",
            "ModelSummary",
        ),
        left_out=("Callback", "RunRecorder"),
    ),
    "loggers": ClassList(
        kind="logger",
        where="trainer.logger",
        base="pytorch_lightning.loggers.Logger",
        lightnings=("CSVLogger", "MLFlowLogger", "TensorBoardLogger"),
    ),
}


def _sentence(doc: str) -> str:
    """The first sentence, on one line."""
    return " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".") + "."


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
