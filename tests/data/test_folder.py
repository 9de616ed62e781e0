from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgrec.data import BadImage, CsvTable, Folder, TarShards, decode_image, map_classes, split_source
from imgrec.data.sources.base import SOURCES
from imgrec.errors import SpecError, UserError

Writer = Callable[..., Path]


def test_one_folder_of_classes(classes: Writer) -> None:
    root = classes({"dog": 2, "cat": 1, "cat/far/away": 2})
    source = Folder(str(root))
    assert source.class_names == ("cat", "dog")
    assert source.ids == ["cat/000.png", "cat/far/away/000.png", "cat/far/away/001.png", "dog/000.png", "dog/001.png"]
    assert source.targets.tolist() == [0, 0, 0, 1, 1]
    assert source.splits == [None] * 5
    assert not source.in_memory
    assert (source.load(1) == decode_image(root / "cat/far/away/000.png")).all()


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "dev", "eval"])
def test_folders_of_splits(classes: Writer, val: str, caplog: pytest.LogCaptureFixture) -> None:
    root = classes({"train/b": 2, "train/a": 1, f"{val}/a": 1, f"{val}/b": 1, "test/b": 1, "unlabelled": 3})
    source = Folder(str(root))
    assert source.class_names == ("a", "b")
    assert dict(zip(source.ids, source.splits, strict=True)) == {
        "train/a/000.png": "train",
        "train/b/000.png": "train",
        "train/b/001.png": "train",
        f"{val}/a/000.png": "val",
        f"{val}/b/000.png": "val",
        "test/b/000.png": "test",
    }
    assert source.targets.tolist() == [0, 1, 1, 0, 1, 1]
    assert "not named like a split: unlabelled." in caplog.text


@pytest.mark.parametrize("name", ["test", "testing"])
def test_a_split_without_class_folders_is_named(classes: Writer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    root = classes({"train/a": 2, "train/b": 2, "train": 1, name: 3, "val/inner": 0})
    (root / "val" / "inner").rmdir()
    assert set(Folder(str(root)).splits) == {"train"}
    assert f"{root / name} has 3 images and no class folder: they have no labels" in caplog.text
    assert f"{root / 'train'}: images outside of class folders are left out: 1." in caplog.text
    assert f"{root / 'val'} has no class folder and no image" in caplog.text


def test_unknown_split_folders_log_a_warning(classes: Writer, caplog: pytest.LogCaptureFixture) -> None:
    counts = {"trainset/a": 1, "trainset/b": 1, "held_out/a": 1, "held_out/b": 1}
    assert Folder(str(classes(counts))).class_names == ("held_out", "trainset")
    assert "the folders held_out, trainset look like splits" in caplog.text
    with pytest.raises(UserError, match="the folders test, trainset look like splits"):
        Folder(str(classes({"trainset/a": 1, "trainset/b": 1, "test/a": 1, "test/b": 1}, root="other")))


def test_system_entries_are_neither_classes_nor_images(classes: Writer, caplog: pytest.LogCaptureFixture) -> None:
    root = classes({"a": 1, "b": 1, "__MACOSX/a": 1, "lost+found": 0, "b/@eaDir/000.png": 1, "$RECYCLE.BIN": 0})
    (root / "System Volume Information").mkdir()
    for name in ("a/._000.png", "a/Thumbs.db", "b/desktop.ini", "b/.DS_Store"):
        (root / name).touch()
    source = Folder(str(root))
    assert source.ids == ["a/000.png", "b/000.png"]
    assert source.class_names == ("a", "b")
    assert not caplog.text


def test_nfc_and_nfd_folders_are_one_class(classes: Writer) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = classes({f"train/{decomposed}": 1, f"train/{composed}": 1, "train/tea": 1, f"val/{composed}": 1})
    source = Folder(str(root))
    assert source.class_names == (composed, "tea")
    assert sorted(source.ids) == sorted(
        [f"train/{decomposed}/000.png", f"train/{composed}/000.png", "train/tea/000.png", f"val/{composed}/000.png"]
    )
    assert all(source.load(row).shape == (3, 12, 12) for row in range(4))
    assert map_classes(source, {decomposed: "coffee"}).class_names == ("coffee", "tea")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipes_and_devices_are_never_opened(
    classes: Writer, write_image: Writer, caplog: pytest.LogCaptureFixture, within_seconds: Callable[[int], object]
) -> None:
    within_seconds(20)  # an open pipe blocks forever, and /dev/zero never ends
    root = classes({"a": 1, "b": 1})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "link.png").symlink_to(root / "a" / "pipe.png")
    (root / "b" / "zero.png").symlink_to("/dev/zero")
    source = Folder(str(root))
    assert source.ids == ["a/000.png", "b/000.png"]
    assert "3 entries are named like images, but are named pipes, devices or sockets" in caplog.text
    for name, kind in {"a/pipe.png": "named pipe", "a/link.png": "named pipe", "b/zero.png": "device"}.items():
        with pytest.raises(BadImage, match=kind):
            decode_image(root / name)
    (root / "list.csv").write_text("path,label\na/pipe.png,x\na/000.png,y\n")
    with pytest.raises(BadImage, match="named pipe"):
        CsvTable(str(root / "list.csv")).load(0)
    os.mkfifo(root / "train.tar")
    with pytest.raises(UserError, match="named pipe"):
        TarShards(str(root / "train.tar"))


def test_classes_may_be_called_like_splits(classes: Writer) -> None:
    assert Folder(str(classes({"train": 2, "car": 2}))).class_names == ("car", "train")


def test_hidden_files_are_passed_over_and_others_are_counted(
    classes: Writer, write_image: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    root = classes({"a": 1, "b": 1, ".git": 1})
    (root / "a" / ".DS_Store").touch()
    (root / "b" / "notes.txt").touch()
    (root / "b" / "photo.heic").touch()
    write_image(root / "b" / "LOUD.PNG")
    with caplog.at_level(logging.WARNING):
        source = Folder(str(root))
    assert source.ids == ["a/000.png", "b/000.png", "b/LOUD.PNG", "b/photo.heic"]
    assert ".txt (1)" in caplog.text
    assert "left out: 1, by ending: .txt" in caplog.text


def test_a_relative_folder_is_found_under_the_data_root(classes: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    root = classes({"a": 1, "b": 1})
    monkeypatch.setenv("IMGREC_DATA", str(root.parent))
    assert len(Folder("images")) == 2
    with pytest.raises(SpecError, match=r"data\.source: data folder not found: neither .*missing nor .*missing"):
        SOURCES.build({"name": "folder", "root": "missing"}, "data.source")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 2}, "two classes or more, got one only: a"),
        ({"a": 2, "b": 0}, r'no image in .*images of the class "b"\.'),
        ({"a": 0, "b": 0}, "no image at all in the 2 class folders of"),
        ({"train/a": 2, "train/b": 0, "test/a": 1}, r'no image in .*images/train of the class "b"'),
        ({"train/a": 2, "train/b": 1, "val/c": 1}, r'images/val has a folder "c".*no such class.*Accepted: a, b\.'),
        ({"train/a": 2, "train/b": 1, "test/a": 1, "test/z": 1}, 'images/test has a folder "z"'),
        ({"val/a": 2, "test/a": 1}, "has test, val, and no train folder"),
        ({"train": 2, "test": 2}, "no class folder in its train folder"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, "two folders for the split val"),
    ],
)
def test_invalid_folders(classes: Writer, counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Folder(str(classes(counts)))


def test_images_without_a_class_folder(classes: Writer) -> None:
    with pytest.raises(UserError, match=r"no class folder in .*: images are expected in images/<class>/"):
        Folder(str(classes({".": 3})))
    with pytest.raises(UserError, match="got a file"):
        Folder(str(classes({".": 3}) / "000.png"))


def test_a_name_that_is_no_utf8_becomes_a_printable_id(classes: Writer) -> None:
    root = classes({"a": 1, "b": 1})
    strange = os.fsdecode(b"b\xff.png")
    (root / "a" / "000.png").rename(root / "a" / strange)
    source = Folder(str(root))
    assert source.ids[0] == "a/b\\xff.png"
    assert source.load(0).shape == (3, 12, 12)
    assert source.fingerprint()


def test_the_fingerprint_sees_a_changed_file(classes: Writer, write_image: Writer) -> None:
    root = classes({"a": 1, "b": 1})
    before = Folder(str(root)).fingerprint()
    assert Folder(str(root)).fingerprint() == before
    write_image(root / "a" / "000.png", size=(13, 12))
    assert Folder(str(root)).fingerprint() != before


def test_sign_digits(real_data: Path) -> None:
    source = Folder(str(real_data / "sign-digits"))
    assert len(source) == 2062
    assert source.class_names == tuple("0123456789")
    assert source.load(0).shape == (3, 100, 100)
    splits = split_source(source)
    assert sum(splits.sizes().values()) == 2062
    shares = np.bincount(source.targets[splits.val]) / np.bincount(source.targets)
    assert shares.min() > 0.095
    assert shares.max() < 0.105


def test_cifar10_keeps_its_test_images(real_data: Path) -> None:
    source = Folder(str(real_data / "cifar10"))
    splits = split_source(source)
    assert splits.sizes() == {"train": 45000, "val": 5000, "test": 10000}
    assert {source.ids[i].split("/")[0] for i in splits.test} == {"test"}
    assert {source.ids[i].split("/")[0] for i in [*splits.train, *splits.val]} == {"train"}
    assert np.bincount(source.targets[splits.val]).tolist() == [500] * 10
    assert "train/airplane/0001.jpg" in source.ids


def test_symbolic_links_are_followed_and_loops_of_them_are_not(
    classes: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = classes({"a": 1, "b": 1})
    elsewhere = classes({"more": 1}, root="elsewhere")
    (root / "a" / "linked").symlink_to(elsewhere / "more")
    (root / "a" / "twice.png").symlink_to(root / "b" / "000.png")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "here").symlink_to(root / "b")
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")
    (root / "b" / "nowhere.png").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        source = Folder(str(root))
    assert source.ids == ["a/000.png", "a/linked/000.png", "a/twice.png", "b/000.png", "b/nowhere.png", "b/self.png"]
    assert caplog.text.count("links to one of its parent folders, and is skipped") == 2
    reasons = {}
    for row, name in enumerate(source.ids):
        try:
            source.load(row)
        except BadImage as error:
            reasons[name] = error.reason
    assert reasons == {
        "b/nowhere.png": "there is no such file",
        "b/self.png": "it is a symbolic link that leads back to itself",
    }


def test_names_with_spaces_other_letters_and_great_length(classes: Writer, write_image: Writer) -> None:
    root = classes({"a": 1, "b": 1})
    names = ["b/a photo (1).png", "b/übergroß 図.png", f"b/{'long ' * 20}/{'x' * 200}.png"]
    for name in names:
        write_image(root / name)
    source = Folder(str(root))
    assert set(names) < set(source.ids)
    assert max(map(len, names)) > 300
    assert all(source.load(row).shape == (3, 12, 12) for row in range(len(source)))


@pytest.mark.parametrize("target", ["..", "../..", "../a"])
def test_a_link_to_a_folder_around_it_brings_no_image_of_another_class(classes: Writer, target: str) -> None:
    root = classes({"a": 2, "b": 2})
    (root / "a" / "up").symlink_to(target)
    assert Folder(str(root)).ids == ["a/000.png", "a/001.png", "b/000.png", "b/001.png"]
