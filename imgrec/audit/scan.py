"""One pass over all images, which several processes decode and measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from imgrec.audit.file_formats import format_of_content, format_of_name, is_cut_off
from imgrec.audit.findings import Finding, Inventory
from imgrec.audit.image_statistics import RECORD, measure_image
from imgrec.data import BadImage, Source
from imgrec.data.decoding.messages import decoder_messages
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.data.wrappers.corrections import EXCLUDE
from imgrec.utils.progress import progress_bar

_BLOCK = 128


@dataclass
class Scan:
    """The result of one pass over all images.

    Args:
        records: One ``RECORD`` per image, zero for an image that cannot be read.
        findings: Defects of the files.
    """

    records: NDArray[Any]
    findings: list[Finding] = field(default_factory=list)


def scan(inventory: Inventory, workers: int = 0) -> Scan:
    """Decode and measure every image.

    Memory contains the measurements, about 450 bytes per image, and the pixels of a few images at a time.

    Args:
        inventory: Audited images.
        workers: Number of decoding processes. Images that are in memory are measured in this process.
    """
    found = Scan(np.zeros(len(inventory), RECORD))
    blocks = _Blocks(inventory.source, inventory.rows)
    workers = 0 if inventory.source.in_memory or len(blocks) < 4 else workers
    loader: Iterable[_Block] = DataLoader(blocks, batch_size=None, num_workers=workers, collate_fn=_identity)
    for position, (record, faults) in enumerate(progress_bar(_unbatch(loader), len(inventory), "Auditing images")):
        found.records[position] = record
        found.findings += [Finding(position, kind, detail, action=action) for kind, detail, action in faults]
    return found


_Faults = list[tuple[str, str, str]]
_Block = tuple[NDArray[Any], list[_Faults]]


def _identity(block: Any) -> Any:
    return block


def _unbatch(blocks: Iterable[_Block]) -> Iterator[tuple[Any, _Faults]]:
    for records, faults in blocks:
        yield from zip(records, faults, strict=True)


class _Blocks(Dataset[_Block]):
    """Measurements and faults of consecutive images. A fault is (kind, detail, action)."""

    def __init__(self, source: Source, rows: NDArray[np.int64]) -> None:
        self.source = source
        self.rows = rows

    def __len__(self) -> int:
        return -(-len(self.rows) // _BLOCK)

    def __getitem__(self, number: int) -> _Block:
        rows = self.rows[number * _BLOCK : (number + 1) * _BLOCK]
        records = np.zeros(len(rows), RECORD)
        faults: list[_Faults] = []
        for at, row in enumerate(rows.tolist()):
            path = self.source.path(row)
            try:
                with decoding(), decoder_messages() as messages:
                    records[at] = measure_image(self.source.load(row))
                found = [] if path is None or (misnamed := _misnamed(path)) is None else [("misnamed", misnamed, "")]
                faults.append(found + ([("damaged", "; ".join(messages[:3]), "")] if messages else []))
            except BadImage as error:
                faults.append([(_kind(path, error.reason), error.reason, EXCLUDE)])
        return records, faults


def _kind(path: Path | None, reason: str) -> str:
    if path is not None:
        try:
            if path.is_file() and path.stat().st_size == 0:
                return "empty"
            if not path.exists():
                return "missing"
            if path.is_file() and is_cut_off(path):
                return "truncated"
        except OSError:
            return "unreadable"
    return "truncated" if "truncated" in reason else "empty" if "empty" in reason else "unreadable"


def _misnamed(path: Path) -> str | None:
    named = format_of_name(path)
    try:
        with path.open("rb") as file:
            content = format_of_content(file.read(16))
    except OSError:
        return None
    if named is None or content is None or named == content:
        return None
    return f"a {content} file with the suffix {path.suffix}"
