"""Files of W&B in the run folder, and the metrics that they contain."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgrec.utils import json_text

STEP = "trainer/global_step"
"""Column of the optimizer step, as in Lightning."""

_MAGIC = b":W&B"
_BLOCK = 32768
_HEADER = struct.Struct("<IHB")  # checksum, length, kind: whole, first, middle or last part of a record
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def wandb_logs(run: Path, offline_only: bool = False) -> list[Path]:
    """Return the ``.wandb`` files in ``wandb/`` of a run folder, oldest first. There is one per start of the run."""
    pattern = "offline-run-*" if offline_only else "*run-*"
    folders = [folder for folder in (run / "wandb").glob(pattern) if not folder.is_symlink()]
    return sorted((file for folder in folders for file in folder.glob("*.wandb")), key=_when)


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a ``.wandb`` file as protobuf messages of W&B. An incomplete record at the end is skipped.

    The file has the log format of LevelDB. A record is in one or several parts of blocks of 32 KiB. Every part has a
    checksum of kind and content.
    """
    from wandb.proto import wandb_internal_pb2

    record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]

    content = path.read_bytes()
    if not content.startswith(_MAGIC):
        return
    at, parts = len(_MAGIC) + 3, b""  # the file's own header fills seven bytes of the first block
    while at + _HEADER.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        checksum, length, kind = _HEADER.unpack_from(content, at)
        part = content[at + _HEADER.size : at + _HEADER.size + length]
        if len(part) < length or zlib.crc32(bytes([kind]) + part) != checksum:
            return
        at += _HEADER.size + length
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield record.FromString(parts)


def wandb_history(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the logged rows of a ``.wandb`` file, by metric name."""
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            yield {
                item.key or ".".join(item.nested_key): json_text.loads(item.value_json) for item in record.history.item
            }


def last_logged(run: Path) -> tuple[int, frozenset[str]]:
    """Return the last logged step and its metrics, or ``(-1, frozenset())`` without any row."""
    last, names = -1, frozenset[str]()
    for file in wandb_logs(run):
        for row in wandb_history(file):
            step = row.get(STEP)
            if isinstance(step, int) and step >= last:
                names = names | row.keys() if step == last else frozenset(row)
                last = step
    return last, names


def _when(file: Path) -> str:
    return file.parent.name.removeprefix("offline-")
