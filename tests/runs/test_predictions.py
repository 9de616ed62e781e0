from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgrec.errors import UserError
from imgrec.runs import predictions
from imgrec.runs.predictions import Predictions, read_predictions, write_predictions


def some(count: int = 50) -> Predictions:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, 3)).astype(np.float32)
    return Predictions([f"ä/{i}.png" for i in range(count)], generator.integers(0, 3, count), logits, ["a", "b,", "ß"])


@pytest.mark.parametrize("count", [50, 0])
def test_predictions_are_read_bit_equal(tmp_path: Path, count: int) -> None:
    written = some(count)
    write_predictions(tmp_path / "deep" / "test.parquet", written)
    read = read_predictions(tmp_path / "deep" / "test.parquet")
    assert read.ids == written.ids
    assert read.class_names == written.class_names == ("a", "b,", "ß")
    np.testing.assert_array_equal(read.targets, written.targets)
    assert read.logits.tobytes() == written.logits.tobytes()
    assert (read.logits.dtype.name, read.targets.dtype.name) == ("float32", "int64")


def test_row_groups_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_ROW_GROUP", 4 * 3 * 7)  # seven rows of three classes
    written = some()
    write_predictions(tmp_path / "test.parquet", written)
    assert pq.ParquetFile(tmp_path / "test.parquet").num_row_groups == 8
    read = read_predictions(tmp_path / "test.parquet")
    assert read.ids == written.ids
    np.testing.assert_array_equal(read.targets, written.targets)
    assert read.logits.tobytes() == written.logits.tobytes()
    assert pq.read_table(tmp_path / "test.parquet").column("predicted").to_pylist() == written.predicted.tolist()


def test_file_is_readable_by_pyarrow(tmp_path: Path) -> None:
    write_predictions(tmp_path / "test.parquet", some())
    table = pq.read_table(tmp_path / "test.parquet")
    assert table.schema.field("id").type == pa.string()
    assert table.schema.field("target").type == pa.int32()
    assert table.schema.field("logits").type.value_type == pa.float32()
    assert table.column("predicted").to_pylist() == some().logits.argmax(axis=1).tolist()
    assert table.schema.metadata[b"class_names"].decode() == '["a", "b,", "ß"]'


def test_logits_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    written = Predictions(["a"], [0], [[np.nan, -np.inf]], ["x", "y"])
    write_predictions(tmp_path / "p.parquet", written)
    assert read_predictions(tmp_path / "p.parquet").logits.tobytes() == written.logits.tobytes()


def test_probabilities_sum_to_one_and_accuracy_counts_hits() -> None:
    found = some()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.accuracy == sum(row.argmax() == t for row, t in zip(found.logits, found.targets, strict=True)) / 50
    assert np.isnan(some(0).accuracy)


@pytest.mark.parametrize(
    ("targets", "logits", "names", "message"),
    [
        ([0, 1], [[0.0, 1.0]], ["a", "b"], "expected targets of shape"),
        ([0], [[0.0, 1.0]], ["a"], "expected targets of shape"),
        ([2], [[0.0, 1.0]], ["a", "b"], "expected indices of 2 classes"),
        ([-1], [[0.0, 1.0]], ["a", "b"], "got -1 to -1"),
    ],
)
def test_shapes_that_do_not_match_are_rejected(
    targets: list[int], logits: list[list[float]], names: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(["x"], targets, logits, names)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    with pytest.raises(UserError, match="predictions not found"):
        read_predictions(path)
    path.write_bytes(b"not parquet at all, but long enough to be looked at")
    with pytest.raises(UserError, match="is not a readable parquet file"):
        read_predictions(path)
    pq.write_table(pa.table({"id": ["a"], "target": [0]}), path)
    with pytest.raises(UserError, match='lacks the column "predicted", the column "logits"'):
        read_predictions(path)
    write_predictions(path, some())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="is not a readable parquet file"):
        read_predictions(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, some())
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_predictions(path, some(3))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["test.parquet"]
