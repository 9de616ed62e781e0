"""Reader of the files of W&B: complete, truncated and damaged."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from imgrec.loggers.wandb.files import last_logged, wandb_history, wandb_logs, wandb_records

BLOCK = 32768


def row(step: int, **values: float) -> bytes:
    """Return a row in the format of the W&B service."""
    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    for name, value in {"trainer/global_step": step, **values}.items():
        item = record.history.item.add()
        item.nested_key.append(name)
        item.value_json = repr(value)
    content: bytes = record.SerializeToString()
    return content


def written(records: list[bytes]) -> bytes:
    """Return a log in the LevelDB format: blocks of 32 KiB, records in parts with a checksum each."""
    content = b":W&B\xe1\xbe\x00"
    for record in records:
        rest, first = record, True
        while rest or first:
            room = BLOCK - len(content) % BLOCK
            if room < 7:
                content += bytes(room)
                continue
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            content += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
    return content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "wandb" / "offline-run-20260101_000000-abc"
    folder.mkdir(parents=True)
    return folder / "run-abc.wandb"


def test_rows_in_many_blocks_are_read(file: Path) -> None:
    rows = [row(step, loss=step / 7, **{f"m{i}": 0.5 for i in range(step % 40)}) for step in range(400)]
    rows.insert(100, row(100, **{f"wide{i}": 1.0 for i in range(6000)}))  # one record over several blocks
    file.write_bytes(written(rows))
    assert file.stat().st_size > 5 * BLOCK
    found = list(wandb_history(file))
    assert len(found) == 401
    assert [r["loss"] for r in found if "loss" in r] == [step / 7 for step in range(400)]
    assert len(found[100]) == 6001


def test_truncated_file_yields_complete_records(file: Path) -> None:
    whole = written([row(step, loss=float(step)) for step in range(4)])
    ends = [len(written([row(step, loss=float(step)) for step in range(count)])) for count in range(5)]
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        complete = sum(length >= end for end in ends[1:])
        assert [r["loss"] for r in wandb_history(file)] == list(range(complete))


def test_damaged_record_stops_the_reader(file: Path) -> None:
    content = bytearray(written([row(step, loss=float(step)) for step in range(4)]))
    content[len(written([row(0, loss=0.0), row(1, loss=1.0)])) + 12] ^= 1
    file.write_bytes(content)
    assert [r["loss"] for r in wandb_history(file)] == [0.0, 1.0]


@pytest.mark.parametrize("content", [b"", b":W&", b"PAR1" + bytes(100)])
def test_other_file_has_no_records(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert list(wandb_records(file)) == []


def test_last_step_of_all_parts_of_a_run(file: Path, tmp_path: Path) -> None:
    assert last_logged(tmp_path) == (-1, frozenset())
    file.write_bytes(written([row(1, lr=0.1), row(2, lr=0.1), row(2, loss=3.0)]))
    assert last_logged(tmp_path) == (2, frozenset({"trainer/global_step", "lr", "loss"}))
    later = tmp_path / "wandb" / "run-20260102_000000-abc" / "run-abc.wandb"
    later.parent.mkdir()
    later.write_bytes(written([row(3, lr=0.1)]))
    (tmp_path / "wandb" / "latest-run").symlink_to(later.parent)
    assert last_logged(tmp_path) == (3, frozenset({"trainer/global_step", "lr"}))
    assert wandb_logs(tmp_path) == [file, later]
    assert wandb_logs(tmp_path, offline_only=True) == [file]
