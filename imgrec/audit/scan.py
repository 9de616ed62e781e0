"""One pass over all images: decoded in several processes, measured, and let go."""

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
from imgrec.audit.image_statistics import RECORD, measure
from imgrec.data import BadImage, Source
from imgrec.data.decoding.messages import decoder_messages
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.data.wrappers.corrections import EXCLUDE
from imgrec.utils.progress import progress_bar

_BLOCK = 128


@dataclass
class Scan:
    """What one pass gave: a ``RECORD`` an image, zero where it cannot be read, and what is wrong with the files."""

    records: NDArray[Any]
    findings: list[Finding] = field(default_factory=list)


def scan(inventory: Inventory, workers: int = 0) -> Scan:
    """Decode and measure every image.

    Only measurements are kept, some 450 bytes an image; of the pixels no more than a few images at once.

    Args:
        inventory: the images.
        workers: processes that decode; none for images that lie in memory.
    """
    found = Scan(np.zeros(len(inventory), RECORD))
    blocks = _Blocks(inventory.source, inventory.rows)
    workers = 0 if inventory.source.in_memory or len(blocks) < 4 else workers
    loader: Iterable[_Block] = DataLoader(blocks, batch_size=None, num_workers=workers, collate_fn=_as_is)
    for position, (record, faults) in enumerate(progress_bar(_singly(loader), len(inventory), "Looking at images")):
        found.records[position] = record
        found.findings += [Finding(position, kind, detail, action=action) for kind, detail, action in faults]
    return found


_Faults = list[tuple[str, str, str]]
_Block = tuple[NDArray[Any], list[_Faults]]


def _as_is(block: Any) -> Any:
    return block


def _singly(blocks: Iterable[_Block]) -> Iterator[tuple[Any, _Faults]]:
    for records, faults in blocks:
        yield from zip(records, faults, strict=True)


class _Blocks(Dataset[_Block]):
    """Measurements and faults of some images after one another; a fault is (kind, detail, action)."""

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
                    records[at] = measure(self.source.load(row))
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
    return f"a {content} file that is called {path.suffix}"
