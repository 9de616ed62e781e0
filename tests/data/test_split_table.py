"""The stored split of a run on data that has changed since."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgrec import ImageDataModule
from imgrec.data.splits.table import SplitError, SplitTable
from imgrec.errors import UserError

CLASSES = ("cat", "dog", "emu")


def draw(path: Path, seed: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def add(root: Path, prefix: str, count: int, classes: tuple[str, ...] = CLASSES) -> None:
    for name in classes:
        for i in range(count):
            draw(root / name / f"{prefix}{i:02d}.png", i)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path / "images", "a", 20)
    return tmp_path / "images"


def make(source: Any, **options: Any) -> ImageDataModule:
    return ImageDataModule(source, image_size=8, num_workers=0, cache="off", **options)


def seen(data: ImageDataModule) -> dict[str, dict[str, str]]:
    """Return the class of each id, by split."""
    data.setup()
    names, source = data.facts.class_names, data.source
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test}
    return {
        word: {source.ids[row]: names[source.targets[row]] for row in rows.tolist()} for word, rows in parts.items()
    }


def _plain(root: Path) -> tuple[Any, dict[str, Any]]:
    return {"name": "folder", "root": str(root)}, {}


def _excluded(root: Path) -> tuple[Any, dict[str, Any]]:
    (root.parent / "out.csv").write_text("id\ncat/a03.png\ndog/a05.png\n")
    (root.parent / "labels.csv").write_text("id,label\nemu/a07.png,cat\n")
    files = {"exclude": str(root.parent / "out.csv"), "relabel": str(root.parent / "labels.csv")}
    return {"name": "folder", "root": str(root)}, files


def _merged(root: Path) -> tuple[Any, dict[str, Any]]:
    return {"name": "folder", "root": str(root)}, {"classes": {"dog": "pet", "cat": "pet"}}


def _view(name: str, **options: Any) -> Callable[[Path], tuple[Any, dict[str, Any]]]:
    def spec(root: Path) -> tuple[Any, dict[str, Any]]:
        return {"name": name, "source": {"name": "folder", "root": str(root)}, **options}, {}

    return spec


def _joined(root: Path) -> tuple[Any, dict[str, Any]]:
    tail = {"name": "long_tail", "source": {"name": "folder", "root": str(root)}, "imbalance": 4}
    return {
        "name": "concat",
        "sources": [{"name": "subset", "source": "digits", "per_class": 4}, tail],
        "names": ["digits", "mine"],
    }, {}


KINDS: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "folder": _plain,
    "exclude and relabel": _excluded,
    "classes": _merged,
    "long_tail": _view("long_tail", imbalance=4),
    "subset": _view("subset", fraction=0.5),
    "label_noise": _view("label_noise", rate=0.4),
    "concat": _joined,
}


@pytest.mark.parametrize("kind", KINDS)
def test_new_images_and_a_new_class_do_not_change_the_split(
    kind: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, options = KINDS[kind](root)
    before = make(source, **options)
    expected = seen(before)
    before.split_table().write(tmp_path / "splits.parquet")
    add(root, "b", 30)
    if kind not in ("label_noise", "long_tail"):  # these depend on the list of classes
        add(root, "c", 3, ("zebra",))
    stored = SplitTable.read(tmp_path / "splits.parquet")
    assert stored.digest == before.split_table().digest
    after = make(source, **options)
    after.use_splits(stored)
    with caplog.at_level("INFO", "imgrec.data"):
        assert seen(after) == expected
    assert after.facts == before.facts
    assert ("images that the run does not have" in caplog.text) == (kind not in ("long_tail", "subset", "concat"))


def test_splits_that_the_source_gives_and_groups_are_stored(tmp_path: Path) -> None:
    rows = ["path,label,split,group"]
    for i in range(12):
        draw(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{i % 2},{('train', 'val', 'test')[i // 4]},patient {i // 2}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = make({"name": "csv", "file": str(tmp_path / "t.csv")})
    expected = seen(data)
    table = data.split_table()
    assert dict(zip(table.ids, table.groups, strict=True))["5.png"] == "patient 2"
    (tmp_path / "t.csv").write_text("\n".join(rows).replace("1.png,1,train", "1.png,1,test"))
    again = make({"name": "csv", "file": str(tmp_path / "t.csv")})
    again.use_splits(table)
    assert seen(again) == expected


def test_several_labels_an_image(tmp_path: Path) -> None:
    rows = ["path,label"]
    for i in range(40):
        draw(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{'|'.join(c for n, c in enumerate('abc') if i % (n + 2) == 0)}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    source = {"name": "csv", "file": str(tmp_path / "t.csv"), "label_separator": "|"}
    data = make(source)
    data.setup()
    table = data.split_table()
    draw(tmp_path / "new.png", 1)
    (tmp_path / "t.csv").write_text("\n".join([*rows, "new.png,a|z"]))
    again = make(source)
    again.use_splits(table)
    again.setup()
    assert again.split_table().digest == table.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "cat" / "a00.png").unlink(), r"1 of \d+ \w+ images are missing: cat/a00.png. The data"),
        (lambda root: draw(root / "cat" / "a00.png", 0, 9), r"1 of \d+ \w+ images have other content now: cat/a00"),
        (lambda root: shutil.rmtree(root / "dog"), r"16 of 48 train and 2 of 6 val and 2 of 6 test images are missing"),
    ],
)
def test_missing_or_changed_images_are_rejected_with_the_difference(
    change: Callable[[Path], None], message: str, root: Path
) -> None:
    data = make({"name": "folder", "root": str(root)})
    data.setup()
    table = data.split_table()
    add(root, "z", 2, ("emu",))
    change(root)
    after = make({"name": "folder", "root": str(root)})
    after.use_splits(table)
    with pytest.raises(SplitError, match=message):
        after.setup()


def test_another_label_is_rejected_and_allowed_changes_keep_the_split(root: Path, tmp_path: Path) -> None:
    data = make({"name": "folder", "root": str(root)})
    known = {name: word for word, ids in seen(data).items() for name in ids}
    (tmp_path / "labels.csv").write_text("id,label\nemu/a07.png,cat\n")
    other = make({"name": "folder", "root": str(root)}, relabel=str(tmp_path / "labels.csv"))
    other.use_splits(data.split_table())
    with pytest.raises(SplitError, match=r"images are of another class now: emu/a07.png was emu and is cat"):
        other.setup()
    add(root, "b", 30)
    (root / "cat" / "a01.png").unlink()
    more = make({"name": "folder", "root": str(root)})
    more.use_splits(data.split_table(), changed=True)
    found = {name: word for word, ids in seen(more).items() for name in ids}
    assert len(found) == 149
    assert all(found[name] == word for name, word in known.items() if name != "cat/a01.png")


def test_a_damaged_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "splits.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a readable parquet file"):
        SplitTable.read(tmp_path / "splits.parquet")
