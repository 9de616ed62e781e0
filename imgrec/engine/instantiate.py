"""Objects from ``class_path`` and ``init_args``, the format of LightningCLI for tasks, callbacks and loggers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule

from imgrec import trust
from imgrec.errors import UserError, suggestion
from imgrec.utils.signature import Entry, check_text_keys, check_type

SHORT_NAMES = (
    "imgrec",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.profilers",
    "pytorch_lightning.plugins",
)
"""Modules whose classes a config names without the module."""

OPENED = {
    "pytorch_lightning.callbacks": (
        *("DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor"),
        *("ModelCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar", "StochasticWeightAveraging"),
        *("Timer", "TQDMProgressBar"),
    ),
    "pytorch_lightning.loggers": ("CSVLogger", "TensorBoardLogger"),
    "pytorch_lightning.strategies": ("DDPStrategy", "FSDPStrategy", "ModelParallelStrategy", "SingleDeviceStrategy"),
}
"""Classes of Lightning that received data may name, in addition to the public classes of imgrec."""

_REDIRECTING = frozenset({"dirpath", "save_dir", "root_dir", "log_dir", "dir", "sub_dir", "settings"})
"""Arguments of callbacks and loggers that name a folder to write to, or a server."""
_READ = frozenset({"ticket"})
"""Arguments of callbacks that name a path to read."""


def find_class(class_path: str, base: type, where: str) -> type:
    """Return the class of a dotted path or a short name.

    Received data resolves imgrec's public classes and those of :data:`OPENED`.

    Raises:
        UserError: If there is no such class, if it is not a subclass of ``base``, or if received data must not name it.
    """
    if not isinstance(class_path, str):
        raise UserError(f"{where}: expected the name of a class, got {class_path!r}.")
    module, _, name = class_path.rpartition(".")
    if trust.current() is not None:
        found = _opened_class(class_path, base, where)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(f"{where}: expected a {base.__name__}, got {class_path}.")
        return found
    for place in [module] if module else SHORT_NAMES:
        try:
            found = getattr(trust.module_named(place), name, None)
        except ImportError as error:
            raise UserError(f"{where}: the class {class_path} cannot be imported: {error}") from error
        if isinstance(found, type) and (issubclass(found, base) or module):
            break
    else:
        found = None
    if found is not None:
        trust.declare(found)
    if found is None:
        names = _known([module] if module else SHORT_NAMES, base)
        raise UserError(f'{where}: there is no class "{class_path}".{suggestion(name, names)}')
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{where}: {class_path} is no {base.__name__}")
    return found


def _opened_class(class_path: str, base: type, where: str) -> Any:
    imgrec = import_module("imgrec")  # the short names of a config are its public names

    name = class_path.rpartition(".")[2]
    accepted = [getattr(imgrec, name)] if name in imgrec.__all__ else []
    accepted += [getattr(import_module(place), name) for place, names in OPENED.items() if name in names]
    for place, names in OPENED.items():
        if name in names and class_path == f"{place}.{name}":
            return accepted[-1]
    classes = [each for each in accepted if isinstance(each, type)]
    if not classes and class_path == name:  # the printed option contains the full name of a short name of Lightning
        place = next((each for each in SHORT_NAMES if isinstance(getattr(import_module(each), name, None), type)), "")
        class_path = f"{place}.{name}" if place else name
    try:
        return trust.import_named(class_path, where, base.__name__, classes)
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: the class {class_path} cannot be imported: {error}") from error


def _known(modules: Iterable[str], base: type) -> list[str]:
    return [
        name
        for module in map(trust.module_named, modules)
        for name, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, base) and not name.startswith("_")
    ]


def instantiate(value: Any, base: type, where: str) -> Any:
    """Build the object that a class path or a mapping describes.

    Args:
        value: Class path, or mapping with ``class_path`` and ``init_args``. The arguments may also be next to
            ``class_path``.
        base: Required base class.
        where: Key in the config, for messages.

    Raises:
        UserError: If the class is unknown, or if an argument is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
        raise UserError(f"{where}: expected a class path, or a mapping with class_path and init_args, got {value!r}")
    cls = find_class(value["class_path"], base, where)
    given = {k: v for k, v in value.items() if k not in ("class_path", "init_args")} | dict(
        value.get("init_args") or {}
    )
    entry = Entry(value["class_path"], cls)
    if not issubclass(cls, LightningModule | LightningDataModule):
        refuse_redirections(entry, given, where)
    arguments = build_arguments(entry, given, where)
    try:
        return cls(**arguments)
    except (ValueError, TypeError, ModuleNotFoundError, MisconfigurationException) as error:
        if isinstance(error, UserError) or not cls.__module__.startswith("pytorch_lightning"):
            raise  # the traceback of a custom class is required to correct it
        raise UserError(f"{where}: {value['class_path']} refuses its arguments: {error}") from error


_FIELDS = re.compile(r"(?:[^{}]|\{[^{}\[\]!]*\})*")
"""Text whose fields in braces are names of metrics. Other fields read attributes and can therefore form any path."""


def refuse_redirections(entry: Entry[Any], arguments: Mapping[str, Any], where: str) -> None:
    """Raise an error if received data gives a callback or a logger a path outside the run folder, or a server.

    Raises:
        UntrustedError: If an argument is such a path, and not everything is trusted.
    """
    scope = trust.current()
    if scope is None or scope.everything or scope.is_allowed(entry.name):
        return
    for key, value in arguments.items():
        outside = isinstance(value, str) and key not in _READ and _leads_out(value)
        unknown = entry.open and key not in entry.parameters
        if value is not None and (outside or unknown or key in _REDIRECTING):
            trust.refuse_unless_trusted(f"{where}.{key}: got {value!r}", "it may write outside the run folder")


def _leads_out(text: str) -> bool:
    return Path(text).is_absolute() or ".." in text or not _FIELDS.fullmatch(text)


def build_arguments(entry: Entry[Any], given_arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments with nested classes built and plain values checked against the annotations.

    Raises:
        UserError: If an argument is unknown, missing, or of the wrong type.
    """
    check_text_keys(given_arguments, where)
    for key in given_arguments:
        if key not in entry.parameters and not entry.open:
            known = ", ".join(sorted(entry.parameters))
            raise UserError(f'{where}: there is no key "{key}".{suggestion(key, entry.parameters)} Accepted: {known}.')
    missing = [n for n, p in entry.parameters.items() if p.default is p.empty and n not in given_arguments]
    if missing:
        raise UserError(f'{where}: {entry.name} needs the argument "{missing[0]}"')
    arguments = {}
    for key, value in given_arguments.items():
        built = build_nested(value, f"{where}.{key}")
        default = value is None and key in entry.parameters and entry.parameters[key].default is None
        plain = built is value and key in entry.parameters and not default
        arguments[key] = check_type(value, entry.hints[key], f"{where}.{key}") if plain else built
    return arguments


def build_nested(value: Any, where: str) -> Any:
    """Return a value with every mapping that has a ``class_path`` built, or the same object if it contains none."""
    if isinstance(value, Mapping) and "class_path" in value:
        return instantiate(value, object, where)
    if isinstance(value, Sequence) and not isinstance(value, str):
        built = [build_nested(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return built if any(b is not v for b, v in zip(built, value, strict=True)) else value
    return value
