from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.data import BadImage, ImageDataModule, TarShards, decode_image
from imgrec.data.sources.tar_index import tar_index
from imgrec.errors import UserError


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def write(path: Path, files: dict[str, bytes | str], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers: range) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for i in numbers:
        found |= {f"{i:06d}.jpg": jpeg(i), f"{i:06d}.cls": str(i % 3)}
    return found


def test_web_datasets_layout(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path / f"train-{shard:04d}.tar", samples(range(10 * shard, 10 * shard + 10)))
    write(tmp_path / "val-0000.tar", samples(range(30, 36)))
    source = TarShards(str(tmp_path))
    assert len(source) == 36
    assert source.class_names == ("0", "1", "2")
    assert source.ids[13] == "train-0001/000013"
    assert source.splits == ["train"] * 30 + ["val"] * 6
    for row in (35, 0, 17, 9):
        assert source.targets[row] == row % 3
        assert torch.equal(source.load(row), decode_image(jpeg(row)))
    pattern = TarShards(str(tmp_path / "train-{0000..0002}.tar"), classes=["a", "b", "c"])
    assert pattern.ids == source.ids[:30]
    assert pattern.class_names == ("a", "b", "c")
    with pytest.raises(UserError, match=r"tar file not found: .*train-0003\.tar"):
        TarShards(str(tmp_path / "train-{0000..0003}.tar"))


def test_system_entries_are_left_out(tmp_path: Path) -> None:
    odd: dict[str, bytes | str] = {
        "__MACOSX/000001.jpg": jpeg(1),
        "@eaDir/000001.jpg": jpeg(1),
        "a/._000001.jpg": b"",
        "Thumbs.db": b"",
    }
    source = TarShards(str(write(tmp_path / "dev.tar", samples(range(3)) | odd)), classes=[0, 1, 2])
    assert source.ids == ["dev/000000", "dev/000001", "dev/000002"]
    assert set(source.splits) == {"val"}


def test_labels_in_json(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for i, kind in enumerate(["cat", "dog", "cat"]):
        files |= {f"x/{i}.png": jpeg(i), f"x/{i}.json": json.dumps({"kind": kind, "age": i, "deep": [1]})}
    files |= {"x/3.png": jpeg(3), "x/3.txt": "no label", "x/._0.png": b"", "note.md": "hello"}
    source = TarShards(str(write(tmp_path / "a.tar", files)), label_key="kind")
    assert source.ids == ["a/x/0", "a/x/1", "a/x/2"]
    assert [source.class_names[t] for t in source.targets] == ["cat", "dog", "cat"]
    assert source.columns["age"].tolist() == [0, 1, 2]
    assert list(source.columns) == ["age"]


def test_lists_of_labels_are_multi_label(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for i, tags in enumerate([["a"], [], ["b", "a"]]):
        files |= {f"{i}.jpg": jpeg(i), f"{i}.json": json.dumps({"label": tags})}
    source = TarShards(str(write(tmp_path / "a.tar", files)))
    assert source.targets.tolist() == [[1, 0], [0, 0], [1, 1]]


def test_one_of_several_images_is_selected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {f"{i}{e}": jpeg(i) for i in range(2) for e in (".jpg", ".png", ".seg.png")})
    with pytest.raises(UserError, match=r"expected one image in .*0, got \.jpg, \.png\. Select one with `image`"):
        TarShards(str(path))
    labelled: dict[str, bytes | str] = {}
    for i in range(2):
        labelled |= {f"{i}.jpg": jpeg(i), f"{i}.mask.png": b"?", f"{i}.cls": str(i)}
    write(path, labelled)
    assert torch.equal(TarShards(str(path)).load(1), decode_image(jpeg(1)))
    with pytest.raises(BadImage):
        TarShards(str(path), image="mask.png").load(1)


def test_the_index_is_kept_and_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", samples(range(5)))
    first = tar_index(path)
    beside = tmp_path / ".a.tar.index"
    assert beside.exists()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was scanned again"))
        again = tar_index(path)
    assert again.names == first.names
    assert again.texts == first.texts
    assert np.array_equal(again.offsets, first.offsets)
    write(path, samples(range(7)))
    assert len(tar_index(path).names) == 14
    beside.write_bytes(b"PAR1")
    assert len(tar_index(path).names) == 14


def test_an_index_in_a_read_only_folder_is_stored_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "a.tar", samples(range(5)))
    (tmp_path / ".a.tar.index").mkdir()
    assert len(tar_index(path).names) == 10
    assert len(list((tmp_path / "cache/tar-index").iterdir())) == 1
    assert len(tar_index(path).names) == 10


def test_a_shard_that_ends_too_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "a.tar", {f"{i}.cls": str(i % 2) for i in range(4)} | {f"{i}.jpg": jpeg(i) for i in range(4)}
    )
    place = tar_index(path)
    path.write_bytes(path.read_bytes()[: int(place.offsets[-1]) + 20])
    with caplog.at_level(logging.WARNING):
        source = TarShards(str(path))
    assert "ends too early" in caplog.text
    assert torch.equal(source.load(2), decode_image(jpeg(2)))
    with pytest.raises(BadImage, match=r"a\.tar ends before the image does"):
        source.load(3)


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.tar", samples(range(3)), "w:gz")
    with pytest.raises(UserError, match=r"a\.tar is compressed \(gzip\).* Decompress it"):
        TarShards(str(packed))
    (tmp_path / "b.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match=r"b\.tar cannot be read as a tar file"):
        TarShards(str(tmp_path / "b.tar"))
    with pytest.raises(UserError, match="no image at all"):
        TarShards(str(write(tmp_path / "c.tar", {"0.cls": "1"})))
    with pytest.raises(UserError, match="none of the 1 images has a label"):
        TarShards(str(write(tmp_path / "d.tar", {"0.jpg": jpeg(0)})))
    with pytest.raises(UserError, match='d/000002: the label "2" is no class'):
        TarShards(str(write(tmp_path / "d.tar", samples(range(3)))), classes=["a", "b"])
    with pytest.raises(UserError, match=r"d/0\.json is not JSON"):
        TarShards(str(write(tmp_path / "d.tar", {"0.jpg": jpeg(0), "0.json": "{"})))


def test_it_trains_with_workers(tmp_path: Path) -> None:
    write(tmp_path / "all.tar", samples(range(60)))
    spec = {"name": "tar", "path": str(tmp_path / "all.tar")}
    module = ImageDataModule(spec, image_size=6, batch_size=8, num_workers=1)
    module.setup()
    batches = list(module.train_dataloader())
    assert [len(batch) for batch in batches] == [8] * 6
    assert not any(batch.skipped for batch in batches)
