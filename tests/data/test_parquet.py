from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from imgrec import ClassificationTask, DataFacts
from imgrec.data import SOURCES, BadImage, ImageDataModule, Parquet, decode_image, split_source
from imgrec.data.splits.names import SPLIT_NAMES
from imgrec.errors import UserError
from tests.data.helpers import png

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog", "ship"]


def write(path: Path, labels: list[Any], first: int = 0, feature: Any = None, group: int = 4, **columns: Any) -> Path:
    """Write a file as Hugging Face libraries do: images numbered from ``first``, labels, features in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(first + i), "path": f"{first + i}.png"} for i in range(len(labels))]
    table = pa.table({"image": pa.array(cells, CELL), "label": pa.array(labels)} | columns)
    features = {"image": {"_type": "Image"}, "label": feature or {"names": NAMES, "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(noted), path, row_group_size=group)
    return path


def test_hugging_faces_layout(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 2, 0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [2, 0, 1], first=5)
    write(tmp_path / "data/validation-00000-of-00001.parquet", [2, 1, 0], first=8)
    write(tmp_path / "data/test-00000-of-00001.parquet", [0, 1], first=11)
    source = Parquet(str(tmp_path))
    assert source.class_names == tuple(NAMES)
    by_id = dict(zip(source.ids, source.targets.tolist(), strict=True))
    assert by_id == {
        **{f"train/{i}": label for i, label in enumerate([0, 1, 2, 0, 1, 2, 0, 1])},
        **{f"val/{i}": label for i, label in enumerate([2, 1, 0])},
        **{f"test/{i}": label for i, label in enumerate([0, 1])},
    }
    firsts = {"train": 0, "val": 8, "test": 11}
    for row in reversed(range(len(source))):  # across files and row groups, against the order
        split, number = source.ids[row].split("/")
        assert source.splits[row] == split
        assert torch.equal(source.load(row), decode_image(png(firsts[split] + int(number))))


def test_few_row_groups_stay_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", [i % 3 for i in range(40)], group=2)
    source = Parquet(str(tmp_path / "all.parquet"), memory=0)
    for row in (0, 39, 1, 17):
        assert torch.equal(source.load(row), decode_image(png(row)))
        assert len(source._reader._kept) == 1
    roomy = Parquet(str(tmp_path / "all.parquet"))
    for row in range(40):
        roomy.load(row)
    assert len(roomy._reader._kept) == 20


def test_another_process_opens_the_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Parquet(str(write(tmp_path / "all.parquet", [i % 3 for i in range(12)])))
    source.load(0)
    files = source._reader._files
    assert torch.equal(pickle.loads(pickle.dumps(source)).load(7), decode_image(png(7)))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert torch.equal(source.load(7), decode_image(png(7)))
    assert source._reader._files is not files


def test_words_as_labels_and_further_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        ["b", "a", None, "b"],
        feature={"_type": "Value"},
        age=pa.array([1, None, 3, 4]),
        camera=pa.array(["x", "y", "z", None]),
        boxes=pa.array([[1.0], [], [], []]),
    )
    source = Parquet(str(path))
    assert source.class_names == ("a", "b")
    assert source.ids == ["0", "1", "3"]
    assert source.targets.tolist() == [1, 0, 1]
    assert source.columns["camera"].tolist() == ["x", "y", None]
    assert np.array_equal(source.columns["age"], [1, np.nan, 4], equal_nan=True)
    assert "boxes" not in source.columns
    assert torch.equal(source.load(2), decode_image(png(3)))


def test_secret_labels_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train.parquet", [0, 1, 2])
    write(tmp_path / "test.parquet", [-1, -1])
    with caplog.at_level(logging.WARNING):
        source = Parquet(str(tmp_path))
    assert set(source.splits) == {"train"}
    assert "2 of 5 images have no label" in caplog.text


def test_lists_of_labels_are_multi_label(tmp_path: Path) -> None:
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}
    source = Parquet(str(write(tmp_path / "a.parquet", [[0], [0, 2], [], [1]], feature=feature)))
    assert source.multi_label
    assert source.targets.dtype == np.float32
    assert source.targets.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert source.class_counts().tolist() == [2, 1, 1]


def test_one_column_a_class_is_multi_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [0, 1], wet=pa.array([1, 0]), cold=pa.array([True, True]))
    source = Parquet(str(path), label_column=["wet", "cold"])
    assert source.class_names == ("wet", "cold")
    assert source.targets.tolist() == [[1, 1], [0, 1]]
    assert list(source.columns) == ["label"]


def test_plain_bytes_and_named_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    plain = pa.table({"picture": pa.array([png(0), png(1)], pa.binary()), "label": ["a", "b"]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert torch.equal(Parquet(str(tmp_path / "plain.parquet")).load(1), decode_image(png(1)))
    cells = [{"bytes": None, "path": "1.png"}, {"bytes": None, "path": "2.png"}, None, {"bytes": b"x", "path": ""}]
    named = pa.table({"image": pa.array(cells, CELL), "label": ["a", "b", "a", "b"]})
    pq.write_table(named, tmp_path / "named.parquet")
    source = Parquet(str(tmp_path / "named.parquet"))
    assert torch.equal(source.load(0), decode_image(png(1)))
    reasons = {1: "there is no such file", 2: "there is no image in this row", 3: "not an image in a format"}
    for row, reason in reasons.items():
        with pytest.raises(BadImage, match=reason):
            source.load(row)


def test_splits_by_mapping_and_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one.parquet", [0, 1])
    write(tmp_path / "two.parquet", [2, 1, 0])
    given = {"train": str(tmp_path / "o*.parquet"), "test": [str(tmp_path / "two.parquet")]}
    assert Parquet(given).splits == ["train"] * 2 + ["test"] * 3  # type: ignore[arg-type]
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path))
    assert len(Parquet("{one,two}.parquet")) == 5
    assert Parquet("{one,two}.parquet").splits == [None] * 5


def refused(path: Any, message: str, **arguments: Any) -> None:
    with pytest.raises(UserError, match=message):
        Parquet(path, **arguments)


@pytest.mark.parametrize("word", SPLIT_NAMES)
def test_every_name_of_a_split_is_recognized(tmp_path: Path, word: str) -> None:
    write(tmp_path / f"{word}-00000.parquet", [0, 1])
    assert set(Parquet(str(tmp_path)).splits) == {SPLIT_NAMES[word]}
    assert set(Parquet({word: str(tmp_path)}).splits) == {SPLIT_NAMES[word]}


def test_paths_labels_and_classes_are_read_as_in_csv_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "0.png").write_bytes(png(0))
    cells = [{"bytes": None, "path": path} for path in ("cats\\0.png", "cats/1.png", "C:\\0.png")]
    labels = ["caf\u00e9", "cafe\u0301", "tea"]
    pq.write_table(pa.table({"image": pa.array(cells, CELL), "label": labels}), tmp_path / "all.parquet")
    source = Parquet(str(tmp_path / "all.parquet"))
    assert source.class_names == ("caf\u00e9", "tea")
    assert torch.equal(source.load(0), decode_image(png(0)))
    for row, message in {1: f"no such file: {tmp_path / 'cats' / '1.png'}", 2: "absolute Windows path"}.items():
        with pytest.raises(BadImage, match=message):
            source.load(row)
    write(tmp_path / "blank.parquet", ["a", "b", "  "], feature={"_type": "Value"})
    assert len(Parquet(str(tmp_path / "blank.parquet"))) == 2
    assert "1 of 3 images have no label" in caplog.text
    given: Any = {"name": "parquet", "path": str(write(tmp_path / "n.parquet", [1, 0, 1])), "classes": [0, 1]}
    numbered = SOURCES.build(given, "data.source")
    assert numbered.class_names == ("0", "1")
    assert numbered.targets.tolist() == [1, 0, 1]


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.parquet", [0, 1]))
    refused(path, 'no column "lable". Did you mean "label"', label_column="lable")
    refused(path, "memory: expected int >= 0, got -1", memory=-1)
    refused(str(tmp_path / "none"), "parquet file not found")
    refused(str(tmp_path / "n*.parquet"), "no parquet file matches")
    refused({"trian": path}, 'no split is called "trian". Did you mean "train"')
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    refused(str(tmp_path / "b.parquet"), "b.parquet cannot be read as a parquet file")
    refused(str(write(tmp_path / "c.parquet", [0, 7])), '1: the label "7" is no class')
    write(tmp_path / "d/train.parquet", [0, 1])
    write(tmp_path / "d/extra.parquet", [0, 1])
    refused(str(tmp_path / "d"), "got 1 of 2 files without one, for example extra.parquet")
    write(tmp_path / "e/test.parquet", [0, 1], age=pa.array([1, 2]))
    refused([str(tmp_path / "d/train.parquet"), str(tmp_path / "e/test.parquet")], "got image, label, age")
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "f.parquet")
    refused(str(tmp_path / "f.parquet"), r"image_column: expected one column that holds images, got none of label")
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), "no parquet file in the folder")
    refused(str(write(tmp_path / "g.parquet", [-1, -1])), "none of the 2 images has a label")


def test_the_fingerprint_is_that_of_the_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [0, 1])
    before = Parquet(str(path)).fingerprint()
    assert Parquet(str(path)).fingerprint() == before
    write(path, [0, 1], first=50, group=1)
    assert Parquet(str(path)).fingerprint() != before


def test_it_trains_with_workers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [i % 3 for i in range(60)])
    module = ImageDataModule({"name": "parquet", "path": str(path)}, image_size=6, batch_size=8, num_workers=1)
    module.setup()
    assert module.split_sizes() == {"train": 48, "val": 6, "test": 6}
    batches = list(module.train_dataloader())
    assert [len(batch) for batch in batches] == [8] * 6
    assert not any(batch.skipped for batch in batches)


def test_multi_label_rows_are_stratified(tmp_path: Path) -> None:
    labels = [[i % 3] if i % 5 else [0, 2] for i in range(100)]
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"}
    source = Parquet(str(write(tmp_path / "a.parquet", labels, feature=feature)))
    splits = split_source(source, 0.2, 0.1)
    sizes = {"train": 70, "val": 20, "test": 10}
    assert all(abs(count - sizes[split]) <= 1 for split, count in splits.sizes().items())
    for rows, share in ((splits.val, 0.2), (splits.test, 0.1)):
        assert np.abs(source.class_counts(rows) - share * source.class_counts()).max() <= 1


def test_several_labels_reach_the_batch_and_a_classification_refuses_them(tmp_path: Path) -> None:
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"}
    path = write(tmp_path / "a.parquet", [[i % 3, (i // 3) % 3] for i in range(90)], feature=feature)
    data = ImageDataModule({"name": "parquet", "path": str(path)}, image_size=6, num_workers=0, batch_size=8)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert (batch.targets.dtype, batch.targets.shape) == (torch.float32, (8, 3))
    rows = [data.source.ids.index(name) for name in batch.ids]
    assert np.array_equal(batch.targets.numpy(), data.source.targets[rows])
    assert data.facts.multi_label
    assert DataFacts.from_dict(data.facts.to_dict()) == data.facts
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match=r"expected one class per image, because ClassificationTask .*\(multi-label\)"):
        trainer.fit(ClassificationTask(), datamodule=data)
