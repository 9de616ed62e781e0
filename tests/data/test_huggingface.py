from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgrec.data import SOURCES, Hub, decode_image
from imgrec.data.sources.huggingface import _parts
from imgrec.errors import UserError
from tests.data.helpers import png

NAMES = ["cat", "dog", "ship"]


@pytest.fixture(name="library")
def _library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    datasets.disable_progress_bars()
    return datasets


def part(library: Any, labels: list[Any], first: int = 0, several: bool = False) -> Any:
    one = library.ClassLabel(names=NAMES)
    features = {"image": library.Image(), "label": [one] if several else one, "age": library.Value("int32")}
    rows = {
        "image": [{"bytes": png(first + i), "path": None} for i in range(len(labels))],
        "label": labels,
        "age": [first + i for i in range(len(labels))],
    }
    return library.Dataset.from_dict(rows, features=library.Features(features))


def save(library: Any, folder: Path, **parts: Any) -> str:
    library.DatasetDict(parts).save_to_disk(str(folder))
    return str(folder)


def test_splits_classes_columns_and_images(library: Any, tmp_path: Path) -> None:
    saved = save(library, tmp_path / "saved", train=part(library, [0, 1, 2, 1]), test=part(library, [2, 0], 4))
    source = Hub(saved)
    assert source.class_names == tuple(NAMES)
    assert source.ids == ["train/0", "train/1", "train/2", "train/3", "test/0", "test/1"]
    assert source.targets.tolist() == [0, 1, 2, 1, 2, 0]
    assert source.columns["age"].tolist() == list(range(6))
    for row in (5, 0, 3):
        assert torch.equal(source.load(row), decode_image(png(row)))
    assert torch.equal(pickle.loads(pickle.dumps(source)).load(4), decode_image(png(4)))
    assert Hub(saved).fingerprint() == source.fingerprint()


def test_splits_by_other_names(library: Any, tmp_path: Path) -> None:
    saved = save(library, tmp_path / "s", train=part(library, [0, 1]), extra=part(library, [2, 0], 2))
    assert set(Hub(saved).splits) == {"train"}
    source = Hub(saved, splits={"train": "train", "extra": "val"})
    assert source.splits == ["train"] * 2 + ["val"] * 2
    assert torch.equal(source.load(2), decode_image(png(2)))
    with pytest.raises(UserError, match=r"has no split devel\. It has: train, extra"):
        Hub(saved, splits={"devel": "val"})


def test_splits_are_recognized_by_the_shared_table_and_others_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert _parts({"Training": 1, "dev": 2, "testing": 3, "extra": 4}, None, "set") == {"train": 1, "val": 2, "test": 3}
    assert "set: left out, because they are not named like a split: extra" in caplog.text
    with pytest.raises(UserError, match="two splits of set have one meaning"):
        _parts({"train": 1, "val": 2, "dev": 3}, None, "set")


def test_lists_of_labels_are_multi_label(library: Any, tmp_path: Path) -> None:
    saved = save(library, tmp_path / "s", train=part(library, [[0], [], [1, 2]], several=True))
    assert Hub(saved).targets.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_a_folder_of_parquet_files_read_by_the_library(library: Any, tmp_path: Path) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    part(library, [0, 1, 2]).to_parquet(str(tmp_path / "set/data/train-00000-of-00001.parquet"))
    by_library = Hub(str(tmp_path / "set"))
    ours = SOURCES.build({"name": "parquet", "path": str(tmp_path / "set")})
    assert by_library.ids == ours.ids
    assert by_library.class_names == ours.class_names
    assert np.array_equal(by_library.targets, ours.targets)
    assert all(torch.equal(by_library.load(row), ours.load(row)) for row in range(3))


def test_unavailable_data_sets(library: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none/there cannot be loaded from the Hugging Face Hub"):
        Hub("none/there")
    saved = save(library, tmp_path / "s", train=part(library, [0, 1]))
    with pytest.raises(UserError, match=r'no column "lable"\. Did you mean "label"'):
        Hub(saved, label_column="lable")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'data\.source: .*pip install "imgrec\[hub\]"'):
        SOURCES.check({"name": "hub", "dataset": "uoft-cs/cifar10"}, "data.source")


def test_a_split_that_is_none_is_rejected_first() -> None:
    with pytest.raises(UserError, match='splits: no split is called "holdout"'):
        Hub.check_arguments("any", splits={"dev": "holdout"})
