"""The folder of one export: a network in another runtime's format, and export.json, which says what it is."""

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
"""The version of export.json."""

DESCRIPTION = "export.json"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Export:
    """What stands in the folder of an export.

    The network's one input is ``images``, float32 in [0, 1], ``(N, C, H, W)``; its one output is ``logits``, float32
    ``(N, num_classes)``. Normalization is a part of the network.

    Attributes:
        folder: where it stands.
        format: a name in :data:`imgrec.FORMATS`.
        precision: one of :data:`PRECISIONS`.
        facts: the data that the network was built for; they hold its preprocessing.
        logits_max_difference: how far its logits were from PyTorch's in float32, at most.
        quantization: how it was quantized and what that cost, or ``None``.
        description: input, output and included operations for readers without imgrec, the plain form of a
            :class:`imgrec.export.description.ModelDescription`; ``None`` in exports of earlier versions.
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
        """The network."""
        return self.folder / find_format(self.format).files[0]

    def to_dict(self) -> dict[str, Any]:
        """What export.json holds."""
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
    """What the folder of an export holds.

    Raises:
        UserError: it is none, it is incomplete, or a newer imgrec wrote it.
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
    """Give a temporary folder that replaces ``folder`` at the end; on an error ``folder`` stays as it was.

    Raises:
        UserError: If ``folder`` exists and is neither empty nor an export, or if it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not _is_replaceable(folder):
        raise UserError(f"{folder} exists and is no export; an export is written to a new or an empty folder")
    with folder_aside(folder) as aside:
        yield aside


def write_description(folder: Path, export: Export) -> None:
    """Write export.json into ``folder``, which need not be ``export.folder`` yet."""
    text = json.dumps(export.to_dict(), indent=2, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def mark_budget(folder: Path, budget: Mapping[str, Any]) -> None:
    """Write into export.json what all steps that led to the export cost together, and what they were allowed to cost.

    Args:
        folder: the folder of an export.
        budget: see :func:`imgrec.studies.compression.plan_budget.judge_budget`.
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
    """Raise :class:`UserError` where a word is none of those that are accepted."""
    accepted = tuple(accepted)
    if value not in accepted:
        raise UserError(
            f'{where}: there is no "{value}".{suggestion(value, accepted)} Accepted: {", ".join(accepted)}.'
        )


def _is_replaceable(folder: Path) -> bool:
    own = {DESCRIPTION, *(name for format in FORMATS.names() for name in files_of(format))}
    return folder.is_dir() and {p.name for p in folder.iterdir()} <= own
