from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from imgrec.data import SOURCES, TorchvisionSet, split_source
from imgrec.data.sources.torchvision import CLASSIFICATION
from imgrec.errors import SpecError, UserError


def fake(size: int, train: int = 0) -> dict[str, object]:
    return {"size": size, "image_size": [3, 8, 8], "num_classes": 3, "random_offset": train}


def test_fake_data_is_one_table() -> None:
    source = TorchvisionSet("FakeData", options=fake(30))
    reference = datasets.FakeData(size=30, image_size=(3, 8, 8), num_classes=3)
    assert source.splits == [None] * 30
    assert source.ids[:2] == ["00", "01"]
    assert source.class_names == ("0", "1", "2")
    assert source.targets.tolist() == [int(reference[i][1]) for i in range(30)]
    assert np.array_equal(source.load(4).permute(1, 2, 0).numpy(), np.array(reference[4][0]))
    assert source.fingerprint() != TorchvisionSet("FakeData", options=fake(30, 1)).fingerprint()


def test_a_dataset_with_train_and_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", train=12, test=6)
    source = TorchvisionSet("MNIST", root=str(tmp_path))
    assert source.ids[0] == "train/00"
    assert source.ids[12:14] == ["test/0", "test/1"]
    assert source.splits == ["train"] * 12 + ["test"] * 6
    assert source.in_memory
    assert source.class_names[:2] == ("0 - zero", "1 - one")
    assert source.load(12).shape == (1, 28, 28)
    assert set(source.load(12).flatten().tolist()) == {100}
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path))
    assert TorchvisionSet("MNIST").fingerprint() == source.fingerprint()
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(idx(np.full((6, 28, 28), 101)))
    assert TorchvisionSet("MNIST").fingerprint() != source.fingerprint()


def test_gathered_batches_equal_single_images(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", train=12, test=6)
    source = TorchvisionSet("MNIST", root=str(tmp_path))
    rows = np.asarray([17, 0, 11, 12, 0])
    batch = source.gather(rows)
    assert batch is not None
    assert torch.equal(batch, torch.stack([source.load(row) for row in rows.tolist()]))
    assert TorchvisionSet("FakeData", options=fake(30)).gather(rows) is None


def test_classes_without_any_image_are_left_out(tmp_path: Path) -> None:
    """EMNIST's letters name 27 classes, of which the first has no image."""
    folder = tmp_path / "EMNIST" / "raw"
    write_mnist(
        folder, train=52, test=26, prefixes=("emnist-letters-train", "emnist-letters-test"), first=1, classes=26
    )
    source = TorchvisionSet("EMNIST", root=str(tmp_path), options={"split": "letters"})
    assert source.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert source.targets[:3].tolist() == [0, 1, 2]


def test_a_dataset_with_words_for_its_splits(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    for split, count in {"train": 3, "valid": 2, "test": 1}.items():
        for name in ("AD", "AE"):
            for i in range(count):
                write_image(tmp_path / "country211" / split / name / f"{i}.jpg")
    source = TorchvisionSet("Country211", root=str(tmp_path))
    assert split_source(source).sizes() == {"train": 6, "val": 4, "test": 2}
    assert source.class_names == ("AD", "AE")
    assert not source.in_memory
    one = TorchvisionSet("Country211", root=str(tmp_path), options={"split": "train"})
    assert one.splits == [None] * 6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dataset": "FashionMINST"}, r'no classification dataset "FashionMINST"\. Did you mean "FashionMNIST"'),
        ({"dataset": "ImageFolder"}, "The source `folder` reads folders of classes"),
        ({"dataset": "CocoDetection"}, "no classification dataset"),
        ({"dataset": "FakeData", "options": {"sizes": 3}}, r'no option "sizes"\. Did you mean "size"'),
        ({"dataset": "CIFAR10", "options": {"root": "x"}}, 'no option "root"'),
        ({"dataset": "EMNIST"}, 'needs `options` with the key "split"'),
        ({"dataset": "FER2013", "download": True}, "cannot download FER2013"),
        ({}, 'needs the argument "dataset"'),
    ],
)
def test_wrong_arguments_are_rejected_before_anything_is_read(spec: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        SOURCES.check({"name": "torchvision", **spec}, "data.source")
    assert str(error.value).startswith("data.source")


def test_a_missing_dataset_raises_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"CIFAR10 was not found under .*Set `download: true`") as error:
        TorchvisionSet("CIFAR10", root=str(tmp_path))
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="torchvision cannot download it"):
        TorchvisionSet("FER2013", root=str(tmp_path))
    monkeypatch.delenv("IMGREC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="FashionMNIST was not found under data "):
        TorchvisionSet("FashionMNIST")
    with pytest.raises(UserError, match="an unknown split"):
        TorchvisionSet("EMNIST", root=str(tmp_path), options={"split": "an unknown split"})


def test_every_dataset_can_be_asked_for_its_arguments() -> None:
    for name in CLASSIFICATION:
        options = {"split": "letters"} if name == "EMNIST" else {}
        TorchvisionSet.check_arguments(name, options=options)


def test_fashion_mnist(real_data: Path) -> None:
    source = TorchvisionSet("FashionMNIST", root=str(real_data))
    reference = datasets.FashionMNIST(real_data, train=False)
    assert split_source(source).sizes() == {"train": 54000, "val": 6000, "test": 10000}
    assert source.class_names[0] == "T-shirt/top"
    assert source.ids[60000] == "test/0000"
    assert torch.equal(source.load(60123)[0], reference.data[123])
    assert source.targets[60123] == reference.targets[123]


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> bytes:
    """Return an array as bytes in the format of MNIST's files."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path,
    train: int,
    test: int,
    prefixes: tuple[str, str] = ("train", "t10k"),
    first: int = 0,
    classes: int = 10,
) -> None:
    folder.mkdir(parents=True)
    for prefix, count, level in zip(prefixes, (train, test), (50, 100), strict=True):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(np.full((count, 28, 28), level)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(first + np.arange(count) % classes))
