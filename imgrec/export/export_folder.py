"""Folder of an export: a network in the format of a runtime, and its description export.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion
from imgrec.export.formats import FORMATS
from imgrec.export.formats.registry import find_format
from imgrec.export.model_folder.preprocessing import check_preprocessing
from imgrec.types import DataFacts
from imgrec.utils import json_text
from imgrec.utils.paths import folder_aside, write_text

VERSION = 1
"""Version of export.json."""

DESCRIPTION = "export.json"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Export:
    """An exported network in a folder.

    The network has one input ``images``, float32 in [0, 1], ``(N, C, H, W)``, and one output ``logits``, float32
    ``(N, num_classes)``. Normalization is a part of the network.

    Attributes:
        folder: Folder of the export.
        format: Name in :data:`imgrec.FORMATS`.
        precision: One of :data:`PRECISIONS`.
        facts: Facts of the data that the network was built for, with its preprocessing.
        logits_max_difference: Largest difference between its logits and those of PyTorch in float32.
        quantization: Method and cost of the quantization, or ``None``.
        description: Input, output and included operations for readers without imgrec, the plain data of a
            :class:`imgrec.export.description.ModelDescription`. ``None`` in exports of earlier versions.
    """

    folder: Path
    format: str
    precision: str
    facts: DataFacts
    logits_max_difference: float
    quantization: dict[str, Any] | None = None
    description: dict[str, Any] | None = None

    @property
    def file(self) -> Path:
        """Path of the network file."""
        return self.folder / find_format(self.format).files[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of export.json."""
        return {
            "version": VERSION,
            "format": self.format,
            "precision": self.precision,
            "file": find_format(self.format).files[0],
            "facts": self.facts.to_dict(),
            "logits_max_difference": self.logits_max_difference,
            "quantization": self.quantization,
            "description": self.description,
        }


def read_export(folder: str | Path) -> Export:
    """Read the folder of an export.

    Raises:
        UserError: If it is no export, is incomplete, or was written by a newer imgrec.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} is no export: it holds no {DESCRIPTION}")
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
        version = found["version"]
        if not isinstance(version, int) or version > VERSION:
            raise UserError(f"{path} was written by a newer imgrec (version {version}, this one reads up to {VERSION})")
        export = Export(
            folder,
            found["format"],
            found["precision"],
            DataFacts.from_dict(found["facts"]),
            float(found["logits_max_difference"]),
            found["quantization"],
            found.get("description"),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}") from error
    if export.format not in FORMATS or export.precision not in PRECISIONS:
        raise UserError(f'{path}: unknown format "{export.format}" or precision "{export.precision}"')
    check_preprocessing(export.facts, str(path))
    missing = [name for name in files_of(export.format) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no complete export: it holds no {missing[0]}")
    return export


@contextmanager
def export_aside(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` at the end. After an error, ``folder`` is unchanged.

    Raises:
        UserError: If ``folder`` exists and is neither empty nor an export, or if it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not _is_replaceable(folder):
        raise UserError(f"{folder} exists and is no export. Name a new or an empty folder.")
    with folder_aside(folder) as aside:
        yield aside


def write_description(folder: Path, export: Export) -> None:
    """Write export.json into ``folder``, which need not be ``export.folder`` yet."""
    text = json.dumps(export.to_dict(), indent=2, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def mark_budget(folder: Path, budget: Mapping[str, Any]) -> None:
    """Write the accuracy budget and the total loss of all compression steps into export.json.

    Args:
        folder: Folder of an export.
        budget: Budget and loss, see :func:`imgrec.studies.compression.plan_budget.evaluate_budget`.
    """
    found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    text = json.dumps({**found, "budget": dict(budget)}, indent=2, allow_nan=False)
    write_text(folder / DESCRIPTION, text + "\n")


def files_of(format: str) -> tuple[str, ...]:
    """Return the names of the files of a format.

    >>> files_of("openvino")
    ('model.xml', 'model.bin')
    """
    return find_format(format).files


def check_choice(value: str, accepted: Iterable[str], where: str) -> None:
    """Raise if a value is not among the accepted ones.

    Raises:
        UserError: If it is not.
    """
    accepted = tuple(accepted)
    if value not in accepted:
        raise UserError(
            f'{where}: there is no "{value}".{suggestion(value, accepted)} Accepted: {", ".join(accepted)}.'
        )


def _is_replaceable(folder: Path) -> bool:
    own = {DESCRIPTION, *(name for format in FORMATS.names() for name in files_of(format))}
    return folder.is_dir() and {p.name for p in folder.iterdir()} <= own
